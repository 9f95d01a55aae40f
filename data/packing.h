// Best-fit-decreasing packing of samples into rows. Pure and deterministic; knows lengths only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace thimble {

/// Row r holds members[row_begin[r]] .. members[row_begin[r + 1] - 1], indices of the packed
/// lengths.
struct RowPlan {
  std::vector<std::int64_t> row_begin{0};
  std::vector<std::uint32_t> members;

  std::int64_t num_rows() const { return static_cast<std::int64_t>(row_begin.size()) - 1; }
};

/// Packs items of lengths 1 .. seq_len into rows of at most seq_len, never splitting one: the
/// longest first, each into the fullest row that still takes it. Items of one length keep their
/// order. Memory: about 16 bytes an item while it runs.  Time: O(items * log seq_len).
RowPlan pack_best_fit(std::span<const std::uint32_t> lengths, std::int64_t seq_len);

/// One item a row, in order.
RowPlan one_per_row(std::int64_t items);

}  // namespace thimble
