// Asynchronous reads and writes of files with a bounded number in flight, on io_uring or on a few
// threads that call pread and pwrite; the two behave alike. Knows nothing of tensors, formats or
// durability: a finished write is in the page cache, File::data_sync makes it durable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "core/base/completion.h"
#include "core/io/file.h"

namespace thimble {

enum class FileEngineKind : std::uint8_t { kAuto, kUring, kThreads };

struct FileEngineOptions {
  FileEngineKind kind = FileEngineKind::kAuto;
  /// Pieces given to the kernel at once, 1 to 1024.
  int queue_depth = 8;
};

/// Starts transfers from any thread. The file and the buffer must outlive the transfer; the
/// engine's destructor finishes what was started, and completions may outlive it.
class FileEngine {
 public:
  /// Larger transfers are split into pieces of this size, which may run in any order.
  static constexpr std::int64_t kPieceBytes = std::int64_t{4} << 20;

  virtual ~FileEngine() = default;
  virtual Completion start_read(const File& file, std::int64_t offset,
                                std::span<std::byte> destination) = 0;
  virtual Completion start_write(const File& file, std::int64_t offset,
                                 std::span<const std::byte> source) = 0;
  /// "io_uring" or "threads"
  virtual std::string_view name() const = 0;

  void read(const File& file, std::int64_t offset, std::span<std::byte> destination) {
    start_read(file, offset, destination).wait();
  }
  void write(const File& file, std::int64_t offset, std::span<const std::byte> source) {
    start_write(file, offset, source).wait();
  }
};

/// kAuto takes io_uring where the kernel permits it and threads elsewhere; kUring throws
/// SystemError there.
std::unique_ptr<FileEngine> make_file_engine(const FileEngineOptions& options = {});

}  // namespace thimble
