#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/io_queue.h"

namespace thimble::internal {
namespace {

/// Owns an initialised ring.
struct Ring {
  io_uring ring{};
  bool live = false;
  Ring() = default;
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() {
    if (live) io_uring_queue_exit(&ring);
  }
};

bool supports_read_and_write(io_uring& ring) {
  io_uring_probe* probe = io_uring_get_probe_ring(&ring);
  if (probe == nullptr) return false;
  const bool both = io_uring_opcode_supported(probe, IORING_OP_READ) != 0 &&
                    io_uring_opcode_supported(probe, IORING_OP_WRITE) != 0;
  io_uring_free_probe(probe);
  return both;
}

/// One thread owns the ring: it moves pieces from the queue into the ring and completions out of
/// it. A read of an eventfd is always in flight, so that a new piece wakes the thread while it
/// waits for the kernel.
class UringEngine final : public FileEngine {
 public:
  UringEngine(std::unique_ptr<Ring> ring, FileDescriptor wake, int queue_depth)
      : ring_(std::move(ring)),
        wake_(std::move(wake)),
        slots_(static_cast<std::size_t>(queue_depth)),
        thread_([this] { work(); }) {}
  ~UringEngine() override {
    queue_.close();
    wake();
    thread_.join();
  }
  UringEngine(const UringEngine&) = delete;
  UringEngine& operator=(const UringEngine&) = delete;

  Completion start_read(const File& file, std::int64_t offset,
                        std::span<std::byte> destination) override {
    Completion transfer = queue_.add(IoDirection::kRead, file, offset, destination);
    wake();
    return transfer;
  }
  Completion start_write(const File& file, std::int64_t offset,
                         std::span<const std::byte> source) override {
    Completion transfer = queue_.add(IoDirection::kWrite, file, offset,
                                     {const_cast<std::byte*>(source.data()), source.size()});
    wake();
    return transfer;
  }
  std::string_view name() const override { return "io_uring"; }

 private:
  static constexpr std::uint64_t kWakeTag = ~std::uint64_t{0};

  struct Slot {
    IoPiece piece;
    bool busy = false;
  };

  void wake() noexcept {
    const std::uint64_t one = 1;
    // Only a full counter can fail, and then the thread is awake anyway.
    [[maybe_unused]] const ssize_t put = ::write(wake_.get(), &one, sizeof(one));
  }

  void work() noexcept {
    arm_wake();
    while (true) {
      // Asked before the queue is emptied: a piece added before the close is then always seen.
      const bool closed = queue_.closed();
      fill_slots();
      if (closed && num_busy_ == 0) return;
      const int result = io_uring_submit_and_wait(&ring_->ring, 1);
      if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY) {
        return fail_everything(-result);
      }
      reap();
    }
  }

  void arm_wake() noexcept {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_->ring);
    io_uring_prep_read(entry, wake_.get(), &wake_count_, sizeof(wake_count_), 0);
    io_uring_sqe_set_data64(entry, kWakeTag);
  }

  void fill_slots() noexcept {
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      while (!slots_[i].busy) {
        auto piece = queue_.try_take();
        if (!piece) return;
        slots_[i].piece = std::move(*piece);
        slots_[i].busy = true;
        ++num_busy_;
        begin(i);
      }
    }
  }

  /// Queues the piece of a slot, or ends it at once if there is no point in running it.
  void begin(std::size_t index) noexcept {
    const IoPiece& piece = slots_[index].piece;
    if (piece.request->failed()) return end(index, nullptr);
    try {
      io_failpoint(piece);
    } catch (...) {
      return end(index, std::current_exception());
    }
    submit(index);
  }

  /// The ring has one entry per slot and one for the eventfd, so an entry is always free here.
  void submit(std::size_t index) noexcept {
    const IoPiece& piece = slots_[index].piece;
    io_uring_sqe* entry = io_uring_get_sqe(&ring_->ring);
    const auto size = static_cast<unsigned>(piece.data.size());
    const auto offset = static_cast<std::uint64_t>(piece.offset);
    if (piece.direction == IoDirection::kRead) {
      io_uring_prep_read(entry, piece.file->descriptor(), piece.data.data(), size, offset);
    } else {
      io_uring_prep_write(entry, piece.file->descriptor(), piece.data.data(), size, offset);
    }
    io_uring_sqe_set_data64(entry, index);
  }

  void reap() noexcept {
    io_uring_cqe* completion = nullptr;
    while (io_uring_peek_cqe(&ring_->ring, &completion) == 0) {
      const std::uint64_t tag = completion->user_data;
      const int result = completion->res;
      io_uring_cqe_seen(&ring_->ring, completion);
      if (tag == kWakeTag) {
        arm_wake();
      } else {
        completed(static_cast<std::size_t>(tag), result);
      }
    }
  }

  void completed(std::size_t index, int result) noexcept {
    IoPiece& piece = slots_[index].piece;
    if (result == -EINTR || result == -EAGAIN) return submit(index);
    if (result < 0) return end_with_code(index, -result);
    const auto moved = static_cast<std::size_t>(result);
    if (moved == piece.data.size()) return end(index, nullptr);
    if (moved == 0) return end_with_code(index, piece.direction == IoDirection::kRead ? 0 : EIO);
    piece.data = piece.data.subspan(moved);
    piece.offset += result;
    submit(index);
  }

  /// Ends a piece with an errno value; 0 stands for the end of the file.
  void end_with_code(std::size_t index, int code) noexcept {
    const IoPiece& piece = slots_[index].piece;
    try {
      const std::string path = piece.file->path().string();
      if (code == 0) {
        throw_system("{}: the file ends at byte {}, {} more bytes were expected", path,
                     piece.offset, piece.data.size());
      }
      errno = code;
      throw_errno(piece.direction == IoDirection::kRead ? "read" : "write", path);
    } catch (...) {
      end(index, std::current_exception());
    }
  }

  void end(std::size_t index, std::exception_ptr error) noexcept {
    slots_[index].busy = false;
    --num_busy_;
    const IoPiece piece = std::move(slots_[index].piece);
    piece.request->end_part(std::move(error));
  }

  /// The kernel took the ring away: nothing in flight, and nothing started later, will ever
  /// complete.
  void fail_everything(int code) noexcept {
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      if (slots_[i].busy) end_with_code(i, code);
    }
    while (auto piece = queue_.take()) {
      slots_[0].piece = std::move(*piece);
      ++num_busy_;
      end_with_code(0, code);
    }
  }

  IoQueue queue_;
  std::unique_ptr<Ring> ring_;
  FileDescriptor wake_;
  std::uint64_t wake_count_ = 0;
  std::vector<Slot> slots_;
  std::int64_t num_busy_ = 0;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<FileEngine> make_uring_engine(int queue_depth, std::string& refusal) {
  auto ring = std::make_unique<Ring>();
  const int result = io_uring_queue_init(static_cast<unsigned>(queue_depth) + 1, &ring->ring, 0);
  if (result < 0) {
    refusal = std::strerror(-result);
    return nullptr;
  }
  ring->live = true;
  if (!supports_read_and_write(ring->ring)) {
    refusal = "this kernel's io_uring has no plain reads and writes";
    return nullptr;
  }
  FileDescriptor wake(::eventfd(0, EFD_CLOEXEC));
  if (!wake) throw_errno("eventfd", "file engine");
  return std::make_unique<UringEngine>(std::move(ring), std::move(wake), queue_depth);
}

}  // namespace thimble::internal
