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

/// At most FileEngine::kPieceBytes of one request. `data` is only read from when writing.
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
};

/// The failure-injection point of a piece: "io.read" or "io.write".
void io_failpoint(const IoPiece& piece);

/// The engine on threads with pread and pwrite.
std::unique_ptr<FileEngine> make_thread_engine(int num_threads);
/// The engine on io_uring; null, with the reason in `refusal`, if the kernel refuses it.
std::unique_ptr<FileEngine> make_uring_engine(int queue_depth, std::string& refusal);

}  // namespace thimble::internal
