// How the sequences of an optimizer step are cut into micro-batches of every rank.
#pragma once

#include <cstdint>
#include <string>

namespace thimble {

struct BatchPlan {
  std::int64_t sequences = 0;    // per optimizer step, of all ranks
  std::int64_t micro_batch = 0;  // sequences per micro-batch and rank
  /// Micro-batches per step and rank; the last ones may be filled up with sequences without loss.
  std::int64_t accumulation_steps = 0;
  int ranks = 1;

  /// "64 sequences = 4 per micro-batch x 2 ranks x 8 gradient accumulation steps"
  std::string text() const;

  /// The place in the step, from 0, of sequence i of micro-batch `index` of a rank; `sequences` and
  /// more: a sequence without loss.
  std::int64_t place(std::int64_t index, int rank, std::int64_t i) const {
    return (index * ranks + rank) * micro_batch + i;
  }
};

/// Micro-batches of at most `micro_batch` sequences, and of no more than a rank's share of the
/// step.
BatchPlan cut_batch(std::int64_t sequences, std::int64_t micro_batch, int ranks = 1);

}  // namespace thimble
