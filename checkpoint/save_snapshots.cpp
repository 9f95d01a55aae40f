#include "checkpoint/save_snapshots.h"

#include "checkpoint/checkpoint_writer.h"
#include "core/base/numeric.h"
#include "core/io/file.h"

namespace thimble {
namespace {

void write_part(CheckpointWriter& writer, const SnapshotPart& part) {
  std::vector<std::byte> buffer;
  auto piece = part.pieces.begin();
  for (const SnapshotArray& array : part.text.arrays) {
    const std::int64_t end = array.offset + array.own.size;
    for (; piece != part.pieces.end() && piece->offset < end; ++piece) {
      buffer.resize(narrow<std::size_t>(piece->bytes));
      part.read(piece->offset, buffer);
      verify_piece(part.text, *piece, buffer);
      writer.write(array.tensor.name, array.tensor.slot,
                   array.own.begin + piece->offset - array.offset, buffer);
    }
  }
}

}  // namespace

std::filesystem::path saving_lock_path(const std::filesystem::path& directory) {
  return directory.parent_path() / "checkpoints.lock";
}

std::filesystem::path save_snapshots(const CheckpointIo& io, const std::filesystem::path& directory,
                                     const std::vector<SnapshotPart>& parts) {
  const SnapshotReader whole(parts);  // checks that it is
  const LockFile lock(saving_lock_path(directory));
  CheckpointWriter writer(
      io, directory,
      {.step = whole.step(), .metadata = whole.metadata(), .tensors = whole.tensors()});
  for (const SnapshotPart& part : parts) write_part(writer, part);
  return writer.commit();
}

}  // namespace thimble
