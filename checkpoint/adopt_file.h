// Makes a checkpoint of a data file that is written already, without copying it: the state of a run
// on disk, of which the checkpoint gets a second name. Nobody may change the file as long as it has
// that name.
#pragma once

#include <filesystem>
#include <vector>

#include "checkpoint/save_state.h"

namespace thimble {

/// Bytes [begin, end) of a file, in one block of kCheckpointBlockBytes, and their CRC32C.
struct WrittenRun {
  std::int64_t begin = 0, end = 0;
  std::uint32_t crc = 0;
};

/// A file that make_adoptable_file() has made, in which all tensors are written.
struct WrittenFile {
  std::filesystem::path path;
  std::vector<CheckpointTensor> tensors;
  std::vector<WrittenRun> runs;  // of all bytes of the tensors
};

/// Creates the file, unwritten, with its disk space reserved unless it is `sparse`; returns where
/// the tensors are to be written.
std::vector<PlacedTensor> make_adoptable_file(const std::filesystem::path& path,
                                              std::span<const CheckpointTensor> tensors,
                                              bool sparse);

/// Whether adopt_file() can succeed: what a checkpoint says of itself fits into the room that the
/// file has for it.
bool is_adoptable(const CheckpointTarget& target);

/// Makes it ckpt-<step> of the target's directory, on the same file system. Writes what is not a
/// tensor's into the file, then the manifest; the failure-injection points are those of a save.
/// Throws SystemError if the disk refuses; a checkpoint that was there stays as it is.
std::filesystem::path adopt_file(const CheckpointTarget& target, const WrittenFile& file);

}  // namespace thimble
