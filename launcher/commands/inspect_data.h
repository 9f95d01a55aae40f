// `thimble inspect data`: the sequences of a job as they are trained on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/nn/batch.h"
#include "data/tokenizer.h"

namespace thimble {

struct CommandSession;

/// Neighbouring tokens of one document that are alike: all trained or none.
struct TokenRun {
  std::int64_t document = 0;  // counted from 0 within the sequence
  std::int64_t begin = 0;     // positions begin .. end of the sequence
  std::int64_t end = 0;
  bool trained = false;  // somewhere in this sequence these tokens are what is to be predicted
  bool padding = false;  // the unused end of the sequence
};

/// The runs of a batch of one sequence, in order. A batch weighs targets; here a token is trained
/// if it is the target of the position before it.
std::vector<TokenRun> token_runs(const Batch& sequence);

/// A sequence as text: one line per run with its ids below, documents apart, trained text
/// highlighted where `color` allows it.
std::string sequence_text(const Batch& sequence, const Tokenizer& tokenizer, bool color);

/// Prints the first `sequences` sequences of the job's training and the summary of its data;
/// tokenises into the job's cache what is not there yet. Throws UserError for a mistake in the job
/// or its data.
void inspect_data(const std::string& job, std::int64_t sequences, bool json,
                  CommandSession& session);

}  // namespace thimble
