// Asynchronous reads and writes of files with a bounded number in flight, on io_uring or on threads
// that call pread and pwrite; the two behave alike. Knows nothing of tensors, formats or
// durability: a finished write is in the page cache, or with a direct file in the disk's own cache,
// and File::data_sync makes it durable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/base/completion.h"
#include "core/io/file.h"

namespace thimble {

enum class FileEngineKind : std::uint8_t { kAuto, kUring, kThreads };

struct FileEngineOptions {
  FileEngineKind kind = FileEngineKind::kAuto;
  /// Pieces given to the kernel at once, 1 to 1024. The engine on threads has at most 16 under way,
  /// one by each thread.
  int queue_depth = 8;
  /// Larger transfers are split into pieces of this size, which may run in any order: a multiple of
  /// 4096 from 64 KiB to 4 MiB.
  std::int64_t piece_bytes = std::int64_t{4} << 20;
  /// Anonymous memory that io_uring registers, so that its pages are looked up and pinned once and
  /// not by every transfer; it must outlive the engine. Transfers wholly inside it profit, others
  /// work as ever. Huge pages help more than registering: a disk takes them in fewer pieces. Empty:
  /// none.
  std::span<std::byte> registered{};
};

/// Starts transfers from any thread. The file and the buffer must outlive the transfer; the
/// engine's destructor finishes what was started, and completions may outlive it. Offset, length
/// and memory of a transfer of a direct file are multiples of its alignment.
class FileEngine {
 public:
  /// The largest piece, and the one by default.
  static constexpr std::int64_t kPieceBytes = FileEngineOptions{}.piece_bytes;

  virtual ~FileEngine() = default;
  virtual Completion start_read(const File& file, std::int64_t offset,
                                std::span<std::byte> destination) = 0;
  virtual Completion start_write(const File& file, std::int64_t offset,
                                 std::span<const std::byte> source) = 0;
  /// "io_uring" or "threads"
  virtual std::string_view name() const = 0;
  /// Why the memory given is not registered: "the kernel refuses ...", "no memory was given"; empty
  /// if it is registered.
  virtual const std::string& why_unregistered() const = 0;

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
