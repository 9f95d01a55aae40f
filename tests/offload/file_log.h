// Writes down what this process does to the files of one directory, and makes a directory of what a
// loss of power at any moment may leave of it. It stands before the C library's functions, so it
// sees what goes through them, not io_uring.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace thimble::testing {

struct FileOperation {
  enum class Kind : std::uint8_t {
    kCreate,         // `name` is a new file
    kWrite,          // `bytes` at `offset`
    kResize,         // to `offset` bytes
    kSync,           // what was written to the file is durable
    kLink,           // `name` has a second name, `to`
    kRename,         // `name` is `to` from now on
    kRemove,         // of `name`
    kSyncDirectory,  // the names are durable
    kPromise,        // the process tells others that step `offset` is not lost any more
  };
  Kind kind = Kind::kSync;
  std::uint64_t inode = 0;  // of the file
  std::string name{}, to{};
  std::int64_t offset = 0;
  std::vector<std::byte> bytes{};
};

/// Everything done in `directory` from now on, in order; one at a time. It must outlive what
/// writes.
class FileLog {
 public:
  explicit FileLog(std::filesystem::path directory);
  ~FileLog();
  FileLog(const FileLog&) = delete;
  FileLog& operator=(const FileLog&) = delete;

  const std::vector<FileOperation>& operations() const { return operations_; }
  void promise(std::int64_t step) { add({.kind = FileOperation::Kind::kPromise, .offset = step}); }
  /// For the functions that stand before the C library's.
  void add(FileOperation operation);
  const std::filesystem::path& directory() const { return directory_; }
  std::uint64_t directory_inode() const { return directory_inode_; }

 private:
  std::filesystem::path directory_;
  std::uint64_t directory_inode_;
  std::vector<FileOperation> operations_;
};

/// What is there after the power went: everything that was made durable; of later writes to a file
/// each wholly, in part or not at all, in any order; of later changes of names the first few.
/// Returns the last promise.
std::int64_t make_after_power_loss(std::span<const FileOperation> done, std::uint64_t seed,
                                   const std::filesystem::path& directory);

}  // namespace thimble::testing
