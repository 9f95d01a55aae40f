#include "checkpoint/save_snapshots.h"

#include "checkpoint/checkpoint_writer.h"
#include "checkpoint/snapshot_reader.h"
#include "core/base/numeric.h"
#include "core/io/file.h"

namespace thimble {
namespace {

void write_part(CheckpointWriter& writer, const SealedSnapshot& snapshot) {
  auto piece = snapshot.pieces.begin();
  for (const SnapshotArray& array : snapshot.text.arrays) {
    const std::int64_t end = array.offset + array.own.size;
    for (; piece != snapshot.pieces.end() && piece->offset < end; ++piece) {
      snapshot.verify(*piece);
      writer.write(array.tensor.name, array.tensor.slot,
                   array.own.begin + piece->offset - array.offset,
                   snapshot.data.subspan(narrow<std::size_t>(piece->offset),
                                         narrow<std::size_t>(piece->bytes)));
    }
  }
}

}  // namespace

std::filesystem::path saving_lock_path(const std::filesystem::path& directory) {
  return directory.parent_path() / "checkpoints.lock";
}

std::filesystem::path save_snapshots(const CheckpointIo& io, const std::filesystem::path& directory,
                                     std::span<const SealedSnapshot> snapshots) {
  std::vector<SnapshotPart> parts;
  for (const SealedSnapshot& snapshot : snapshots) parts.push_back(part_of(snapshot));
  const SnapshotReader whole(std::move(parts));  // checks that it is
  const LockFile lock(saving_lock_path(directory));
  CheckpointWriter writer(
      io, directory,
      {.step = whole.step(), .metadata = whole.metadata(), .tensors = whole.tensors()});
  for (const SealedSnapshot& snapshot : snapshots) write_part(writer, snapshot);
  return writer.commit();
}

}  // namespace thimble
