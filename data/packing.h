// Best-fit-decreasing packing of samples into sequences. Pure and deterministic; knows lengths
// only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace thimble {

/// Sequence r holds members[sequence_begin[r]] .. members[sequence_begin[r + 1] - 1], indices of
/// the packed lengths.
struct SequencePlan {
  std::vector<std::int64_t> sequence_begin{0};
  std::vector<std::uint32_t> members;

  std::int64_t num_sequences() const {
    return static_cast<std::int64_t>(sequence_begin.size()) - 1;
  }
};

/// Packs items of lengths 1 .. seq_len into sequences of at most seq_len, never splitting one: the
/// longest first, each into the fullest sequence that still takes it. Items of one length keep
/// their order. Memory: about 16 bytes per item while it runs. Time: O(items * log seq_len).
SequencePlan pack_best_fit(std::span<const std::uint32_t> lengths, std::int64_t seq_len);

/// One item per sequence, in order.
SequencePlan one_per_sequence(std::int64_t items);

}  // namespace thimble
