#include "core/io/file_engine.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/numeric.h"
#include "core/io/io_queue.h"

namespace thimble {

IoTicket::IoTicket(std::shared_ptr<internal::IoRequest> request) : request_(std::move(request)) {}

IoTicket& IoTicket::operator=(IoTicket&& other) noexcept {
  if (this != &other) {
    finish();
    request_ = std::move(other.request_);
  }
  return *this;
}

IoTicket::~IoTicket() {
  finish();
}

void IoTicket::finish() noexcept {
  if (request_ == nullptr) return;
  const std::exception_ptr error = request_->wait_error();
  request_.reset();
  if (error == nullptr) return;
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& failure) {
    spdlog::error("unread error of a file transfer: {}", failure.what());
  }
}

bool IoTicket::done() const {
  return request_ == nullptr || request_->done();
}

void IoTicket::wait() {
  if (request_ == nullptr) return;
  const std::exception_ptr error = request_->wait_error();
  request_.reset();
  if (error != nullptr) std::rethrow_exception(error);
}

void wait_all(std::span<IoTicket> tickets) {
  std::exception_ptr first;
  for (IoTicket& ticket : tickets) {
    if (first != nullptr) {
      ticket = IoTicket();
      continue;
    }
    try {
      ticket.wait();
    } catch (...) {
      first = std::current_exception();
    }
  }
  if (first != nullptr) std::rethrow_exception(first);
}

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

void IoRequest::piece_ended(std::exception_ptr error) noexcept {
  const std::lock_guard lock(mutex_);
  if (error != nullptr && error_ == nullptr) error_ = std::move(error);
  if (--pending_ == 0) all_ended_.notify_all();
}

bool IoRequest::failed() const {
  const std::lock_guard lock(mutex_);
  return error_ != nullptr;
}

bool IoRequest::done() const {
  const std::lock_guard lock(mutex_);
  return pending_ == 0;
}

std::exception_ptr IoRequest::wait_error() {
  std::unique_lock lock(mutex_);
  all_ended_.wait(lock, [this] { return pending_ == 0; });
  return std::exchange(error_, nullptr);
}

IoTicket IoQueue::add(IoDirection direction, const File& file, std::int64_t offset,
                      std::span<std::byte> data) {
  const auto size = narrow<std::int64_t>(data.size());
  if (size == 0) return {};
  auto request = std::make_shared<IoRequest>(ceil_div(size, FileEngine::kPieceBytes));
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
  return IoTicket(std::move(request));
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

  IoTicket start_read(const File& file, std::int64_t offset,
                      std::span<std::byte> destination) override {
    return queue_.add(IoDirection::kRead, file, offset, destination);
  }
  IoTicket start_write(const File& file, std::int64_t offset,
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
      piece->request->piece_ended(error);
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
