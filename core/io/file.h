// Files and directories: an owned descriptor with full reads and writes at offsets, atomic
// replacement of small files, and a lock between processes. Blocking calls only; asynchronous
// transfers are in file_engine.h.
//
// Errors: what the user can mend (no such file, no permission, not a regular file) is a UserError;
// everything else the kernel reports, a short file included, is a SystemError that names the path
// and the offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/base/unique_handle.h"

namespace thimble {

namespace internal {
struct CloseDescriptor {
  void operator()(int descriptor) const noexcept;
};
}  // namespace internal

using FileDescriptor = UniqueHandle<int, internal::CloseDescriptor, -1>;

/// An open regular file. Reads and writes at offsets are safe from several threads at once.
class File {
 public:
  static File open_read(const std::filesystem::path& path);
  /// Opens an existing file for reading and writing.
  static File open_read_write(const std::filesystem::path& path);
  /// Creates the file, or empties an existing one; readable and writable.
  static File create(const std::filesystem::path& path);
  /// Creates the file; none if the name is taken, even by a dangling link.
  static std::optional<File> create_new(const std::filesystem::path& path);
  /// Opens an existing file for reading and writing past the page cache (O_DIRECT); through it
  /// where its file system knows no other way: direct_alignment() says which.
  static File open_direct(const std::filesystem::path& path);

  /// Bytes in the file now.
  std::int64_t size() const;
  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return descriptor_.get(); }
  /// What offset, length and memory of a transfer must be multiples of, because it goes past the
  /// page cache; 0 if it goes through it, and they may be anything.
  std::int64_t direct_alignment() const { return direct_alignment_; }
  /// Of the `moved` bytes of a system call, those after which the transfer can go on: all of them,
  /// or the whole blocks of a direct file. 0 if it cannot, because the file ends there.
  std::int64_t resumable(std::int64_t moved) const {
    return direct_alignment_ == 0 ? moved : moved / direct_alignment_ * direct_alignment_;
  }

  /// Fills `destination` from `offset` on; the end of the file before that is a SystemError.
  void read_at(std::int64_t offset, std::span<std::byte> destination) const;
  /// Writes all of `source` at `offset`, growing the file if needed.
  void write_at(std::int64_t offset, std::span<const std::byte> source) const;
  /// Reserves disk space for the first `bytes` bytes, so that a full disk is reported now and not
  /// in a later write. File systems that cannot reserve are left alone.
  void reserve(std::int64_t bytes) const;
  /// Returns when contents and size have reached the disk.
  void data_sync() const;

  /// Hints to the page cache: they change speed only, and their failure is ignored.
  void will_read_sequentially() const noexcept;
  void prefetch(std::int64_t offset, std::int64_t bytes) const noexcept;
  void drop_cache(std::int64_t offset, std::int64_t bytes) const noexcept;

 private:
  File(const std::filesystem::path& path, int flags);
  File(std::filesystem::path path, FileDescriptor descriptor)
      : path_(std::move(path)), descriptor_(std::move(descriptor)) {}

  std::filesystem::path path_;
  FileDescriptor descriptor_;
  std::int64_t direct_alignment_ = 0;
};

namespace internal {
struct MappedRange;
}

/// A whole file mapped read-only. Bytes that are gone when they are read (the file was cut, its
/// disk or server failed) end the process with exit status 1 and a line that names the file, unless
/// the owner says that it asks for losses.
class MappedFile {
 public:
  enum class OnLoss : std::uint8_t { kExit, kNote };

  /// With kNote lost bytes read as zeros and lost() is true from then on: ask after reading.
  explicit MappedFile(const std::filesystem::path& path, OnLoss on_loss = OnLoss::kExit);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return bytes_; }
  std::string_view text() const;

  bool lost() const noexcept;
  /// Size and time of change of the file as it was mapped and as it is now; another value says that
  /// somebody has written to it. With kNote only.
  struct Stamp {
    std::int64_t bytes = 0, changed_ns = 0;
    bool operator==(const Stamp&) const = default;
  };
  Stamp stamp() const;

 private:
  std::span<const std::byte> bytes_;
  FileDescriptor descriptor_;  // with kNote
  std::filesystem::path path_;
  internal::MappedRange* range_ = nullptr;  // none for an empty file
};

/// The whole file as text; refuses files above `max_bytes` with a UserError before it allocates.
std::string read_text_file(const std::filesystem::path& path, std::int64_t max_bytes);

/// Replaces `path` by `text` so that a crash leaves either the old or the new contents: writes a
/// file of a free name beside it, syncs it, renames it and syncs the directory. The temporary file
/// is removed on failure.
void write_file_atomic(const std::filesystem::path& path, std::string_view text);

/// Makes the directory's entries (creations, renames, removals) durable.
void sync_directory(const std::filesystem::path& directory);

/// std::filesystem::rename with a SystemError that names both paths.
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);

/// Removes `path` and everything below it; never throws, and reports failure by false.
bool remove_tree(const std::filesystem::path& path) noexcept;

/// Whether `name`, read from an untrusted file, may name a file beside it: one plain component, no
/// '/', no "..".
bool is_plain_file_name(std::string_view name);

/// Exclusive lock on a file for the life of the object; the kernel releases it when the process
/// dies.
class LockFile {
 public:
  /// Creates `path` if needed. Throws UserError naming the holder's process id if another holder
  /// exists.
  explicit LockFile(const std::filesystem::path& path);

 private:
  FileDescriptor descriptor_;
};

}  // namespace thimble
