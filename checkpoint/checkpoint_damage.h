// Which bytes of a checkpoint are not those that were saved: every block is read and compared with
// its checksum, and what the damaged ones hold is named. Reads only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/checkpoint_tensor.h"
#include "checkpoint/manifest.h"

namespace thimble {

/// The part of a tensor that lies in a block.
struct DamagedTensor {
  std::string name;
  std::string slot;
  /// Bytes [begin, end) of the tensor's own.
  std::int64_t begin = 0;
  std::int64_t end = 0;

  bool operator==(const DamagedTensor&) const = default;
};

/// A block whose bytes are not those of its checksum, or cannot be read.
struct DamagedBlock {
  /// Bytes [begin, end) of the data file.
  std::int64_t begin = 0;
  std::int64_t end = 0;
  /// Why it could not be read; empty: its checksum does not match.
  std::string unreadable;
  /// By offset. None: the block holds the file's own structures alone.
  std::vector<DamagedTensor> tensors;

  /// "a/master bytes 0 to 12, b/exp_avg bytes 8 to 16 and 3 more", at most `max_tensors` named;
  /// "file metadata" if there are none.
  std::string owners(std::size_t max_tensors) const;
};

/// Reads the data file that the manifest describes, once. Throws SystemError for a block that
/// cannot be read, unless such blocks are to be listed too.
enum class OnUnreadable : std::uint8_t { kThrow, kList };
std::vector<DamagedBlock> find_damaged_blocks(const CheckpointIo& io, const File& file,
                                              const Manifest& manifest, OnUnreadable on_unreadable);

struct CheckpointDamage {
  /// What is wrong with the checkpoint as a whole, naming the file; empty: nothing.
  std::string problem;
  /// The data file, if the manifest names one.
  std::filesystem::path file;
  std::vector<DamagedBlock> blocks;
  /// That were read and compared.
  std::int64_t bytes = 0;

  bool found() const { return !problem.empty() || !blocks.empty(); }
};

/// Reads every byte of a checkpoint, past the page cache where the file system can do so: what is
/// compared is what the disk holds. Takes 32 MiB of memory. Damage is a result, never an exception.
CheckpointDamage examine_checkpoint(const std::filesystem::path& checkpoint, FileEngine& engine);

}  // namespace thimble
