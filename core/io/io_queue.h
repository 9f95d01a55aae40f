// What both file engines share: the queue of pieces that workers take from. Private to core/io.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "core/io/file_engine.h"

namespace thimble::internal {

enum class IoDirection : std::uint8_t { kRead, kWrite };

/// At most FileEngineOptions::piece_bytes of one request. `data` is only read from when writing.
struct IoPiece {
  std::shared_ptr<PartsUnderWay> request;
  IoDirection direction = IoDirection::kRead;
  const File* file = nullptr;
  std::int64_t offset = 0;
  std::span<std::byte> data;
};

/// Pieces in the order they were started.
class IoQueue {
 public:
  explicit IoQueue(std::int64_t piece_bytes) : piece_bytes_(piece_bytes) {}
  /// Splits a transfer into pieces, queues them and returns its completion.
  Completion add(IoDirection direction, const File& file, std::int64_t offset,
                 std::span<std::byte> data);
  /// The next piece, or nothing if the queue is empty.
  std::optional<IoPiece> try_take();
  /// Blocks for the next piece; nothing once the queue is closed and empty.
  std::optional<IoPiece> take();
  /// No piece will be added any more.
  void close();
  bool closed() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<IoPiece> pieces_;
  bool closed_ = false;
  std::int64_t piece_bytes_;
};

/// The failure-injection point of a piece, "io.read" or "io.write". Returns what to give to the
/// kernel first: all of it, or half where a short transfer is injected.
std::span<std::byte> io_failpoint(const IoPiece& piece);

/// Takes what a system call returned, bytes moved or a negative errno value. True: the piece is now
/// what is left of it, and has to be given to the kernel again; false: it is done. Throws the
/// SystemError of the piece. Failpoint "io.done" when it is done.
bool advance(IoPiece& piece, std::int64_t result);

/// The engine on threads with pread and pwrite. `refusal`: why it is not io_uring, empty by choice.
std::unique_ptr<FileEngine> make_thread_engine(const FileEngineOptions& options,
                                               const std::string& refusal);
/// The engine on io_uring; null, with the reason in `refusal`, if the kernel refuses it.
std::unique_ptr<FileEngine> make_uring_engine(const FileEngineOptions& options,
                                              std::string& refusal);

}  // namespace thimble::internal
