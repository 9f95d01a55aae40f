// Splits one token file into the sequences that train and the sequences held out for validation.
// The two never share a token position: neither as an input nor as a target.
//
// Samples, and text of at least kMinDocumentsToSplit documents, are split by document: those with
// the smallest hashes (selection.h). Text of fewer documents is split by sequences of the stream:
// up to ten contiguous ranges spread evenly over the corpus, placed by the seed; the last target of
// a range is dropped, as its token is the first input of the neighbour.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/sequence_source.h"

namespace thimble {

inline constexpr std::int64_t kMinDocumentsToSplit = 20;

struct SplitOptions {
  bool packing = true;
  bool train_on_inputs = false;
  double val_set_size = 0;  // below 1: share; from 1 on: number of documents or sequences
  std::uint64_t seed = 0;
};

struct SplitSequences {
  std::unique_ptr<SequenceSource> train;
  std::unique_ptr<SequenceSource> validation;  // null if nothing is held out
};

/// Throws UserError if the data gives no sequence, or fewer than val_set_size asks for; messages
/// begin with `where`.
SplitSequences split_sequences(const DocumentSelection& selection, const SplitOptions& options,
                               const std::string& where);

/// `held_out` of `sequences` sequences (0 < held_out < sequences) as ascending, disjoint ranges;
/// deterministic in the seed.
std::vector<SequenceRange> held_out_ranges(std::int64_t sequences, std::int64_t held_out,
                                           std::uint64_t seed);

/// The sequences of 0 .. sequences that stand in none of `ranges`.
std::vector<SequenceRange> other_ranges(std::int64_t sequences,
                                        const std::vector<SequenceRange>& ranges);

}  // namespace thimble
