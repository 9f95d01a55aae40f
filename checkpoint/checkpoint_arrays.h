// Which arrays a checkpoint holds, and which byte ranges of each a rank writes and reads: the one
// place that decides it. A pure function of the StateTable; moves no byte (save_state.h does).
#pragma once

#include <span>
#include <vector>

#include "checkpoint/checkpoint_tensor.h"
#include "core/nn/state_residency.h"

namespace thimble {

/// An array of a checkpoint, and the part of it that one rank writes.
struct CheckpointArray {
  CheckpointTensor tensor;
  const StateEntry* entry;  // of the table that was asked
  Slice rows;               // rows of the parameter whose state the rank writes; none: empty
  ByteRange own;            // the bytes of the array that the rank writes
};

/// The bytes of an entry's array that `rank` writes: those of its own rows. The ranks' ranges are
/// disjoint and together are the whole array. What every slice keeps whole is written by the first
/// rank that has rows.
ByteRange written_by(const StateEntry& entry, int rank);

/// All arrays of the checkpoint of `step`, in the table's order, with what `rank` writes of each.
/// The parts of all ranks are disjoint and together are the whole array.
std::vector<CheckpointArray> checkpoint_arrays(const StateTable& table, std::int64_t step,
                                               int rank);

/// The same of everything that the checkpoint of some step holds.
std::vector<CheckpointArray> checkpoint_arrays_of_all_steps(const StateTable& table, int rank);

/// Bytes of all arrays of the checkpoint of `step`.
std::int64_t checkpoint_bytes(const StateTable& table, std::int64_t step);

/// Descriptions of the arrays, as a checkpoint's reader and writer take them.
std::vector<CheckpointTensor> tensors_of(std::span<const CheckpointArray> arrays);

/// Some rows of an array, in the host's memory while they are leased.
struct CheckpointPiece {
  const CheckpointArray* array;
  StateUse use;
  std::int64_t offset;  // of its first byte in the array
};

/// What the rank writes of the arrays, in pieces of about `bytes`, in the order of the file. The
/// arrays must outlive the pieces.
std::vector<CheckpointPiece> pieces_to_write(const StateTable& table,
                                             std::span<const CheckpointArray> arrays,
                                             std::int64_t bytes);

/// All that `rank` holds of the arrays, in pieces of about `bytes`: what it reads from a
/// checkpoint.
std::vector<CheckpointPiece> pieces_to_read(const StateTable& table,
                                            std::span<const CheckpointArray> arrays, int rank,
                                            std::int64_t bytes);

}  // namespace thimble
