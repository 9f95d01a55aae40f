#include "core/io/file_engine.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/numeric.h"
#include "core/io/io_queue.h"

namespace thimble {

std::unique_ptr<FileEngine> make_file_engine(const FileEngineOptions& options) {
  TH_CHECK(options.queue_depth >= 1 && options.queue_depth <= 1024);
  if (options.kind != FileEngineKind::kThreads) {
    std::string refusal;
    auto engine = internal::make_uring_engine(options.queue_depth, refusal);
    if (engine != nullptr) return engine;
    if (options.kind == FileEngineKind::kUring) throw_system("io_uring: {}", refusal);
  }
  constexpr int kMaxThreads = 4;
  return internal::make_thread_engine(std::min(options.queue_depth, kMaxThreads));
}

namespace internal {

Completion IoQueue::add(IoDirection direction, const File& file, std::int64_t offset,
                        std::span<std::byte> data) {
  const auto size = narrow<std::int64_t>(data.size());
  if (size == 0) return {};
  auto request = std::make_shared<PartsUnderWay>(ceil_div(size, FileEngine::kPieceBytes));
  {
    const std::lock_guard lock(mutex_);
    TH_CHECK(!closed_);
    for (std::int64_t begin = 0; begin < size; begin += FileEngine::kPieceBytes) {
      const std::int64_t bytes = std::min(size - begin, FileEngine::kPieceBytes);
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

void io_failpoint(const IoPiece& piece) {
  failpoint(piece.direction == IoDirection::kRead ? "io.read" : "io.write");
}

namespace {

void run_piece(const IoPiece& piece) {
  io_failpoint(piece);
  if (piece.direction == IoDirection::kRead) {
    piece.file->read_at(piece.offset, piece.data);
  } else {
    piece.file->write_at(piece.offset, piece.data);
  }
}

class ThreadEngine final : public FileEngine {
 public:
  explicit ThreadEngine(int num_threads) {
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
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<FileEngine> make_thread_engine(int num_threads) {
  return std::make_unique<ThreadEngine>(num_threads);
}

}  // namespace internal
}  // namespace thimble
