// Writes one checkpoint directory so that a crash at any moment leaves either no trace that counts
// or a whole checkpoint. Knows no model, optimizer or rank; checkpoint_directory.h keeps the
// directory of all checkpoints.
//
// Order: ckpt-<step>.tmp/data-0.h5 with its layout; the tensors' bytes through the file engine, in
// any order and then one pass that checksums the file, or block by block with the checksums at once
// (write_all); fdatasync; MANIFEST; rename to ckpt-<step>.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint_tensor.h"

namespace thimble {

/// The failure-injection points of a save, in order; each is passed once before and once after its
/// phase ("write" once before and after each call).
inline constexpr std::array<std::string_view, 6> kCheckpointFailpoints = {
    "checkpoint.create", "checkpoint.write",    "checkpoint.checksum",
    "checkpoint.sync",   "checkpoint.manifest", "checkpoint.publish"};

struct CheckpointContents {
  std::int64_t step = 0;
  /// JSON text kept verbatim: model configuration, optimizer, seed, tokens seen, data position.
  std::string metadata;
  std::vector<CheckpointTensor> tensors;
};

/// 32 hexadecimal digits that no other checkpoint has.
std::string make_checkpoint_uuid();

/// A checkpoint's directory while it is written: <final path>.tmp, which goes with its owner unless
/// it was given its name.
class StagedCheckpoint {
 public:
  /// Makes it, and the directories above it.
  explicit StagedCheckpoint(std::filesystem::path final_path);
  ~StagedCheckpoint();
  StagedCheckpoint(const StagedCheckpoint&) = delete;
  StagedCheckpoint& operator=(const StagedCheckpoint&) = delete;
  const std::filesystem::path& path() const { return path_; }
  /// Gives it its name, durably, in place of what has it.
  void publish();

 private:
  std::filesystem::path final_path_, path_;
  bool published_ = false;
};

/// One save. Destroyed before commit() has returned, it removes what it wrote.
class CheckpointWriter {
 public:
  /// Creates `directory` if needed and in it ckpt-<step>.tmp with the disk space of all tensors
  /// reserved.
  CheckpointWriter(CheckpointIo io, const std::filesystem::path& directory,
                   CheckpointContents contents);
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Writes bytes [byte_offset, byte_offset + bytes.size()) of a tensor, in stored order. Ranges
  /// may come in any order but must not overlap. SystemError if the disk is full; LogicError for a
  /// range outside the tensor.
  void write(std::string_view name, std::string_view slot, std::int64_t byte_offset,
             std::span<const std::byte> bytes);

  /// Says that these bytes come another way: a SharedCheckpointFile of another process has written
  /// them, or write_all() will. As write() without them.
  void written_elsewhere(std::string_view name, std::string_view slot, std::int64_t byte_offset,
                         std::int64_t bytes);
  /// The data file of a save that is under way, for the processes that write parts of it.
  static std::filesystem::path data_path(const std::filesystem::path& directory, std::int64_t step);

  /// Makes the checkpoint durable and gives it its name, replacing one of the same step; every byte
  /// of every tensor must have been written. Returns the checkpoint's directory.
  std::filesystem::path commit();

  /// Puts those bytes of tensors that lie in the file from `begin` on into the block, in which all
  /// others are already, and returns the CRC32C of all of it. Blocks come in order.
  using BlockFill = std::function<std::uint32_t(std::int64_t begin, std::span<std::byte> block)>;
  /// Instead of write() and commit(): the whole file from its first block to its last, past the
  /// page cache. `fill` must give every byte of every tensor, and written_elsewhere() have said so.
  std::filesystem::path write_all(const BlockFill& fill);
  /// Where a tensor lies in the file.
  const PlacedTensor& place_of(std::string_view name, std::string_view slot) const;

 private:
  /// What has been written of one tensor: begin -> end of disjoint ranges.
  struct Progress {
    PlacedTensor placed;
    std::map<std::int64_t, std::int64_t> ranges;
  };

  void create();
  PlacedTensor& note_range(std::string_view name, std::string_view slot, std::int64_t byte_offset,
                           std::int64_t bytes);
  void check_complete() const;
  void write_manifest(std::vector<std::uint32_t> checksums);
  std::vector<std::pair<std::int64_t, std::int64_t>> own_ranges() const;
  std::vector<std::uint32_t> stream(const BlockFill& fill);
  std::filesystem::path publish(std::vector<std::uint32_t> checksums);

  CheckpointIo io_;
  std::filesystem::path final_path_;
  std::optional<StagedCheckpoint> staged_;
  CheckpointContents contents_;
  std::string uuid_;
  std::map<std::string, Progress, std::less<>> tensors_;
  std::optional<File> file_;
  std::int64_t file_bytes_ = 0;
};

/// Another process's hand in a checkpoint that a CheckpointWriter has begun: writes bytes of
/// tensors into its data file, nothing else.
class SharedCheckpointFile {
 public:
  SharedCheckpointFile(CheckpointIo io, const std::filesystem::path& data_path);
  /// As CheckpointWriter::write, which must hear of it from written_elsewhere().
  void write(std::string_view name, std::string_view slot, std::int64_t byte_offset,
             std::span<const std::byte> bytes);
  /// Makes what was written durable.
  void sync() { file_.data_sync(); }

 private:
  CheckpointIo io_;
  std::map<std::string, PlacedTensor, std::less<>> tensors_;
  File file_;
};

}  // namespace thimble
