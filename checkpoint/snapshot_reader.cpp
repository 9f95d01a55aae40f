#include "checkpoint/snapshot_reader.h"

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {

SnapshotPart part_of(const SealedSnapshot& snapshot) {
  return {.text = snapshot.text,
          .pieces = snapshot.pieces,
          .read = [data = snapshot.data](std::int64_t offset, std::span<std::byte> to) {
            TH_CHECK(offset >= 0 &&
                     offset + narrow<std::int64_t>(to.size()) <= narrow<std::int64_t>(data.size()));
            if (!to.empty())
              std::memcpy(to.data(), data.data() + narrow<std::size_t>(offset), to.size());
          }};
}

SnapshotReader::SnapshotReader(std::vector<SnapshotPart> parts) : parts_(std::move(parts)) {
  if (parts_.empty()) throw_system("there is no snapshot");
  const SnapshotText& first = parts_.front().text;
  for (std::size_t p = 0; p < parts_.size(); ++p) {
    const SnapshotText& text = parts_[p].text;
    if (text.step != first.step || text.start != first.start || text.ranks != first.ranks ||
        narrow<std::size_t>(text.ranks) != parts_.size() ||
        text.arrays.size() != first.arrays.size())
      throw_system("the snapshots of the ranks are not of one moment");
    for (std::size_t i = 0; i < text.arrays.size(); ++i) {
      const SnapshotArray& array = text.arrays[i];
      if (array.tensor != first.arrays[i].tensor)
        throw_system("the snapshots of the ranks are of several models");
      std::vector<Range>& ranges = arrays_[checkpoint_key(array.tensor)];
      if (array.own.size > 0) ranges.push_back({array.own, p, array.offset});
    }
  }
  for (const SnapshotArray& array : first.arrays) {
    std::vector<Range>& ranges = arrays_[checkpoint_key(array.tensor)];
    std::sort(ranges.begin(), ranges.end(),
              [](const Range& a, const Range& b) { return a.bytes.begin < b.bytes.begin; });
    std::int64_t end = 0;
    bool whole = true;
    for (const Range& range : ranges) {
      whole = whole && range.bytes.begin == end;
      end = range.bytes.end();
    }
    if (!whole || end != checkpoint_bytes(array.tensor))
      throw_system("the snapshots of the ranks do not have all of {}",
                   checkpoint_key(array.tensor));
  }
}

std::string SnapshotReader::name() const {
  return fmt::format("the snapshot of step {}", step());
}

std::vector<CheckpointTensor> SnapshotReader::tensors() const {
  std::vector<CheckpointTensor> found;
  for (const SnapshotArray& array : parts_.front().text.arrays) found.push_back(array.tensor);
  return found;
}

void SnapshotReader::require(std::span<const CheckpointTensor> expected) const {
  require_tensors(expected, tensors(), name());
}

void SnapshotReader::read(std::string_view tensor, std::string_view slot, std::int64_t byte_offset,
                          std::span<std::byte> destination) const {
  const auto found = arrays_.find(fmt::format("{}/{}", tensor, slot));
  TH_CHECK(found != arrays_.end(), "no tensor '{}/{}'", tensor, slot);
  const std::int64_t end = byte_offset + narrow<std::int64_t>(destination.size());
  std::int64_t filled = byte_offset;
  for (const Range& range : found->second) {
    const std::int64_t begin = std::max(filled, range.bytes.begin),
                       stop = std::min(end, range.bytes.end());
    if (begin >= stop) continue;
    parts_[range.part].read(range.offset + begin - range.bytes.begin,
                            destination.subspan(narrow<std::size_t>(begin - byte_offset),
                                                narrow<std::size_t>(stop - begin)));
    filled = stop;
  }
  TH_CHECK(filled == end, "bytes {} to {} of '{}'", byte_offset, end, found->first);
}

}  // namespace thimble
