#include "core/io/file_engine.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/numeric.h"
#include "core/io/io_queue.h"

namespace thimble {

std::unique_ptr<FileEngine> make_file_engine(const FileEngineOptions& options) {
  TH_CHECK(options.queue_depth >= 1 && options.queue_depth <= 1024);
  TH_CHECK(options.piece_bytes >= 64 * kKiB && options.piece_bytes <= FileEngine::kPieceBytes &&
               options.piece_bytes % 4096 == 0,
           "pieces of {} bytes: a multiple of 4096 from 64 KiB to 4 MiB is needed",
           options.piece_bytes);
  std::string refusal;
  if (options.kind != FileEngineKind::kThreads) {
    auto engine = internal::make_uring_engine(options, refusal);
    if (engine != nullptr) return engine;
    if (options.kind == FileEngineKind::kUring) throw_system("io_uring: {}", refusal);
  }
  return internal::make_thread_engine(options, refusal);
}

namespace internal {
namespace {

// The size of the pieces of a transfer. Those of a direct file all begin at multiples of its
// alignment if the transfer does.
std::int64_t piece_size(const File& file, std::int64_t offset, std::span<const std::byte> data,
                        std::int64_t piece_bytes) {
  const std::int64_t alignment = file.direct_alignment();
  if (alignment == 0) return piece_bytes;
  const auto unit = narrow<std::uint64_t>(alignment);
  TH_CHECK(
      (static_cast<std::uint64_t>(offset) | data.size() |
       reinterpret_cast<std::uintptr_t>(data.data())) %
              unit ==
          0,
      "{}: {} bytes at byte {} and address {}: past the page cache all of them are multiples of {}",
      file.path().string(), data.size(), offset, fmt::ptr(data.data()), alignment);
  return std::max(alignment, piece_bytes / alignment * alignment);
}

}  // namespace

Completion IoQueue::add(IoDirection direction, const File& file, std::int64_t offset,
                        std::span<std::byte> data) {
  const auto size = narrow<std::int64_t>(data.size());
  if (size == 0) return {};
  const std::int64_t step = piece_size(file, offset, data, piece_bytes_);
  auto request = std::make_shared<PartsUnderWay>(ceil_div(size, step));
  {
    const std::lock_guard lock(mutex_);
    TH_CHECK(!closed_);
    for (std::int64_t begin = 0; begin < size; begin += step) {
      const std::int64_t bytes = std::min(size - begin, step);
      pieces_.push_back(
          {request, direction, &file, offset + begin,
           data.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(bytes))});
    }
  }
  changed_.notify_all();
  return completion_of(std::move(request));
}

std::optional<IoPiece> IoQueue::try_take() {
  const std::lock_guard lock(mutex_);
  if (pieces_.empty()) return std::nullopt;
  IoPiece piece = std::move(pieces_.front());
  pieces_.pop_front();
  return piece;
}

std::optional<IoPiece> IoQueue::take() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return closed_ || !pieces_.empty(); });
  if (pieces_.empty()) return std::nullopt;
  IoPiece piece = std::move(pieces_.front());
  pieces_.pop_front();
  return piece;
}

void IoQueue::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
}

bool IoQueue::closed() const {
  const std::lock_guard lock(mutex_);
  return closed_;
}

std::span<std::byte> io_failpoint(const IoPiece& piece) {
  if (!failpoint(piece.direction == IoDirection::kRead ? "io.read" : "io.write")) return piece.data;
  const std::int64_t half = piece.file->resumable(narrow<std::int64_t>(piece.data.size() / 2));
  return half == 0 ? piece.data : piece.data.first(static_cast<std::size_t>(half));
}

bool advance(IoPiece& piece, std::int64_t result) {
  if (result == -EINTR || result == -EAGAIN) return true;
  const bool reading = piece.direction == IoDirection::kRead;
  const auto wanted = narrow<std::int64_t>(piece.data.size());
  // A full disk is known by how much it had no room for, so the bytes are always named.
  const auto fail = [&](int code) {
    throw_system("{}: cannot {} {} bytes at byte {}: {}", piece.file->path().string(),
                 reading ? "read" : "write", wanted, piece.offset, std::strerror(code));
  };
  if (result < 0) fail(static_cast<int>(-result));
  if (result == wanted) {
    failpoint("io.done");
    return false;
  }
  const std::int64_t moved = piece.file->resumable(result);
  if (moved == 0 && reading) {
    throw_system("{}: the file ends at byte {}, {} more bytes were expected",
                 piece.file->path().string(), piece.offset + result, wanted - result);
  }
  if (moved == 0) fail(EIO);
  piece.data = piece.data.subspan(static_cast<std::size_t>(moved));
  piece.offset += moved;
  return true;
}

namespace {

void run_piece(IoPiece& piece) {
  std::span<std::byte> now = io_failpoint(piece);
  for (;;) {
    const int descriptor = piece.file->descriptor();
    const ssize_t result = piece.direction == IoDirection::kRead
                               ? ::pread(descriptor, now.data(), now.size(), piece.offset)
                               : ::pwrite(descriptor, now.data(), now.size(), piece.offset);
    if (!advance(piece, result < 0 ? -errno : result)) return;
    now = piece.data;
  }
}

class ThreadEngine final : public FileEngine {
 public:
  ThreadEngine(const FileEngineOptions& options, const std::string& refusal)
      : queue_(options.piece_bytes),
        why_unregistered_(options.registered.empty() ? "no memory was given"
                                                     : "files are read by threads, not io_uring") {
    if (!refusal.empty()) why_unregistered_ += ": " + refusal;
    constexpr int kMaxThreads = 16;
    const int num_threads = std::min(options.queue_depth, kMaxThreads);
    for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~ThreadEngine() override {
    queue_.close();
    for (std::thread& thread : threads_) thread.join();
  }
  ThreadEngine(const ThreadEngine&) = delete;
  ThreadEngine& operator=(const ThreadEngine&) = delete;

  Completion start_read(const File& file, std::int64_t offset,
                        std::span<std::byte> destination) override {
    return queue_.add(IoDirection::kRead, file, offset, destination);
  }
  Completion start_write(const File& file, std::int64_t offset,
                         std::span<const std::byte> source) override {
    return queue_.add(IoDirection::kWrite, file, offset,
                      {const_cast<std::byte*>(source.data()), source.size()});
  }
  std::string_view name() const override { return "threads"; }
  const std::string& why_unregistered() const override { return why_unregistered_; }

 private:
  void work() noexcept {
    while (auto piece = queue_.take()) {
      std::exception_ptr error;
      if (!piece->request->failed()) {
        try {
          run_piece(*piece);
        } catch (...) {
          error = std::current_exception();
        }
      }
      piece->request->end_part(error);
    }
  }

  IoQueue queue_;
  std::string why_unregistered_;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<FileEngine> make_thread_engine(const FileEngineOptions& options,
                                               const std::string& refusal) {
  return std::make_unique<ThreadEngine>(options, refusal);
}

}  // namespace internal
}  // namespace thimble
