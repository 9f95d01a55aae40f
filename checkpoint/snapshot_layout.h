// What one rank keeps of a snapshot in memory, as values: the same arrays and byte ranges that it
// writes of a checkpoint, one behind the other, and the text that says so. Knows no memory
// (snapshot_memory.h) and copies nothing (lazy_snapshot.h).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint_arrays.h"

namespace thimble {

/// An array of the checkpoint that the snapshots of all ranks are, and what one rank has of it.
struct SnapshotArray {
  CheckpointTensor tensor;
  ByteRange own;            // of the array's bytes
  std::int64_t offset = 0;  // of the first of them in the snapshot
  bool operator==(const SnapshotArray&) const = default;
};

/// What a snapshot says of itself.
struct SnapshotText {
  std::int64_t step = 0;
  std::uint64_t start = 0;  // of the run's start that made it: those of two are never mixed
  int rank = 0, ranks = 1;
  std::string metadata;  // JSON, as in a checkpoint
  std::vector<SnapshotArray> arrays;
  std::int64_t data_bytes = 0;
  bool operator==(const SnapshotText&) const = default;
};

std::string snapshot_text(const SnapshotText& snapshot);
/// Throws SystemError for anything that snapshot_text() does not write, and for ranges that leave
/// the snapshot, or lie in each other.
SnapshotText parse_snapshot_text(std::string_view text);

/// The arrays as a snapshot of one rank has them, in their order; returns the bytes of all.
std::int64_t place_arrays(std::span<const CheckpointArray> arrays,
                          std::vector<SnapshotArray>& placed);

/// Room for one snapshot, of any step.
struct SnapshotRoom {
  std::int64_t text_bytes = 0;
  std::int64_t pieces = 0;  // that are copied, and have checksums, one by one
  std::int64_t data_bytes = 0;
};

/// Of a piece that is copied at once: see pieces_to_write().
inline constexpr std::int64_t kSnapshotPieceBytes = std::int64_t{4} << 20;
/// The longest metadata that a snapshot has room for.
inline constexpr std::int64_t kSnapshotMetadataBytes = std::int64_t{512} << 10;

SnapshotRoom snapshot_room(const StateTable& table, int rank);

}  // namespace thimble
