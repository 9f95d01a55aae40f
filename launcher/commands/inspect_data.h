// `thimble inspect data`: the rows of a job as they are trained on.
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
  std::int64_t document = 0;  // counted from 0 within the row
  std::int64_t begin = 0;     // positions begin .. end of the row
  std::int64_t end = 0;
  bool trained = false;  // somewhere in this row these tokens are what is to be predicted
  bool padding = false;  // the unused end of the row
};

/// The runs of a batch of one row, in order. A batch weighs targets; here a token is trained if it
/// is the target of the position before it.
std::vector<TokenRun> token_runs(const Batch& row);

/// A row as text: one line a run with its ids below, documents apart, trained text highlighted
/// where `color` allows it.
std::string row_text(const Batch& row, const Tokenizer& tokenizer, bool color);

/// Prints the first `rows` rows of the job's training and the summary of its data; tokenises into
/// the job's cache what is not there yet. Throws UserError for a mistake in the job or its data.
void inspect_data(const std::string& job, std::int64_t rows, bool json, CommandSession& session);

}  // namespace thimble
