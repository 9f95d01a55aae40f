// Splits one token file into the rows that train and the rows held out for validation. The two
// never share a token position: neither as an input nor as a target.
//
// Samples, and text of at least kMinDocumentsToSplit documents, are split by document: those with
// the smallest hashes (selection.h). Text of fewer documents is split by rows of the stream: up to
// ten contiguous ranges spread evenly over the corpus, placed by the seed; the last target of a
// range is dropped, as its token is the first input of the neighbour.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/row_source.h"

namespace thimble {

inline constexpr std::int64_t kMinDocumentsToSplit = 20;

struct SplitOptions {
  bool packing = true;
  bool train_on_inputs = false;
  double val_set_size = 0;  // below 1: share; from 1 on: number of documents or rows
  std::uint64_t seed = 0;
};

struct SplitRows {
  std::unique_ptr<RowSource> train;
  std::unique_ptr<RowSource> validation;  // null if nothing is held out
};

/// Throws UserError if the data gives no row, or fewer than val_set_size asks for; messages begin
/// with `where`.
SplitRows split_rows(const DocumentSelection& selection, const SplitOptions& options,
                     const std::string& where);

/// `held_out` of `rows` rows (0 < held_out < rows) as ascending, disjoint ranges; deterministic in
/// the seed.
std::vector<RowRange> held_out_ranges(std::int64_t rows, std::int64_t held_out, std::uint64_t seed);

/// The rows of 0 .. rows that stand in none of `ranges`.
std::vector<RowRange> other_ranges(std::int64_t rows, const std::vector<RowRange>& ranges);

}  // namespace thimble
