// What one node has of a moment, as one run of bytes: the images of its ranks' slots, one behind
// the other, in the order of the ranks.
#pragma once

#include <vector>

#include "keeper/kept_ranks.h"

namespace thimble {

class NodeShard {
 public:
  /// `place`: of the ranks of this node.
  explicit NodeShard(MomentPlace place);

  const SnapshotMoment& moment() const { return place_.moment; }
  std::int64_t bytes() const { return bytes_; }
  const MomentPlace& place() const { return place_; }
  /// Copies bytes from an offset on, within the shard.
  void read(std::int64_t offset, std::span<std::byte> to) const;
  /// The other way.
  void write(std::int64_t offset, std::span<const std::byte> from);
  /// Whether all slots still hold that moment: only then what was read before is it.
  bool is_intact() const;
  /// Moves the slots on.
  void advance(SnapshotState to) const;

 private:
  template <typename Each>
  void for_parts(std::int64_t offset, std::int64_t bytes, Each&& each) const;

  MomentPlace place_;
  std::vector<std::uint64_t> stamps_;  // of the slots, as they were
  std::int64_t bytes_ = 0;
};

}  // namespace thimble
