// The sealed snapshots of all ranks at one step, read as one: whoever wrote which rows, any number
// of ranks can load them.
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "checkpoint/snapshot_memory.h"
#include "checkpoint/state_reader.h"

namespace thimble {

/// Of one rank's snapshot, which may be on another node.
struct SnapshotPart {
  SnapshotText text;
  std::vector<SnapshotPiece> pieces;
  /// Fills the span with its data from an offset on. Throws SystemError.
  std::function<void(std::int64_t offset, std::span<std::byte> to)> read;
};

/// A part whose data lie in memory here, as long as that is mapped.
SnapshotPart part_of(const SealedSnapshot& snapshot);

class SnapshotReader final : public StateReader {
 public:
  /// One part of every rank. Throws SystemError unless they are of one step and start, and have
  /// every byte of every array exactly once.
  explicit SnapshotReader(std::vector<SnapshotPart> parts);

  std::int64_t step() const override { return parts_.front().text.step; }
  const std::string& metadata() const override { return parts_.front().text.metadata; }
  std::string name() const override;
  void require(std::span<const CheckpointTensor> expected) const override;
  void read(std::string_view tensor, std::string_view slot, std::int64_t byte_offset,
            std::span<std::byte> destination) const override;

  std::vector<CheckpointTensor> tensors() const;

 private:
  struct Range {
    ByteRange bytes;  // of the array
    std::size_t part = 0;
    std::int64_t offset = 0;  // in the part's data
  };
  std::vector<SnapshotPart> parts_;
  std::map<std::string, std::vector<Range>, std::less<>> arrays_;  // in the order of bytes
};

}  // namespace thimble
