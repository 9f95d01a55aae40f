#include "keeper/node_shard.h"

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {

NodeShard::NodeShard(MomentPlace place) : place_(std::move(place)) {
  for (const auto& [kept, slot] : place_.slots) {
    bytes_ += SnapshotMemory::image_bytes(kept->snapshots.room());
    stamps_.push_back(kept->snapshots.stamp(slot));
  }
}

// each(bytes of the slot, where they are among those asked for)
template <typename Each>
void NodeShard::for_parts(std::int64_t offset, std::int64_t bytes, Each&& each) const {
  TH_CHECK(offset >= 0 && bytes >= 0 && offset + bytes <= bytes_, "bytes {} to {} of {}", offset,
           offset + bytes, bytes_);
  std::int64_t begin = 0;  // of a slot in the shard
  for (const auto& [kept, slot] : place_.slots) {
    const std::span<std::byte> image = kept->snapshots.image(slot);
    const std::int64_t end = begin + narrow<std::int64_t>(image.size()),
                       from = std::max(begin, offset), to = std::min(end, offset + bytes);
    if (from < to) {
      each(image.subspan(narrow<std::size_t>(from - begin), narrow<std::size_t>(to - from)),
           narrow<std::size_t>(from - offset));
    }
    begin = end;
  }
}

void NodeShard::read(std::int64_t offset, std::span<std::byte> to) const {
  for_parts(offset, narrow<std::int64_t>(to.size()),
            [&](std::span<std::byte> part, std::size_t at) {
              std::memcpy(to.data() + at, part.data(), part.size());
            });
}

void NodeShard::write(std::int64_t offset, std::span<const std::byte> from) {
  for_parts(offset, narrow<std::int64_t>(from.size()),
            [&](std::span<std::byte> part, std::size_t at) {
              std::memcpy(part.data(), from.data() + at, part.size());
            });
}

bool NodeShard::is_intact() const {
  for (std::size_t i = 0; i < stamps_.size(); ++i) {
    const auto& [kept, slot] = place_.slots[i];
    if (stamps_[i] == 0 || kept->snapshots.stamp(slot) != stamps_[i]) return false;
  }
  return true;
}

void NodeShard::advance(SnapshotState to) const {
  for (const auto& [kept, slot] : place_.slots) SnapshotMemory(kept->snapshots).advance(slot, to);
}

}  // namespace thimble
