#include <liburing.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/io_queue.h"

namespace thimble::internal {
namespace {

/// Owns an initialised ring and the memory registered with it.
struct Ring {
  io_uring ring{};
  bool live = false;
  std::span<std::byte> registered;
  std::string why_unregistered = "no memory was given";
  Ring() = default;
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() {
    // Left to the end of the ring, the pages would stay pinned for a while after it.
    if (!registered.empty()) io_uring_unregister_buffers(&ring);
    if (live) io_uring_queue_exit(&ring);
  }

  void register_memory(std::span<std::byte> memory);
  /// Which buffer holds all of `data`; none if it is not registered or reaches over the end of one.
  std::optional<int> buffer_of(std::span<const std::byte> data) const;
};

// The kernel takes buffers of at most this size.
constexpr std::size_t kBufferBytes = std::size_t{1} << 30;

void Ring::register_memory(std::span<std::byte> memory) {
  if (memory.empty()) return;
  std::vector<iovec> buffers;
  for (std::size_t begin = 0; begin < memory.size(); begin += kBufferBytes) {
    buffers.push_back({memory.data() + begin, std::min(kBufferBytes, memory.size() - begin)});
  }
  const int result =
      io_uring_register_buffers(&ring, buffers.data(), static_cast<unsigned>(buffers.size()));
  if (result == 0) {
    registered = memory;
    why_unregistered.clear();
    return;
  }
  why_unregistered =
      fmt::format("the kernel refuses to register {} of memory: {}",
                  format_bytes(narrow<std::int64_t>(memory.size())), std::strerror(-result));
  rlimit limit{};
  if ((result == -ENOMEM || result == -EPERM) && ::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 &&
      limit.rlim_cur < memory.size()) {
    why_unregistered += fmt::format("; the limit of locked memory (ulimit -l) is {}: raise it",
                                    format_bytes(narrow<std::int64_t>(limit.rlim_cur)));
  }
}

std::optional<int> Ring::buffer_of(std::span<const std::byte> data) const {
  const auto begin = reinterpret_cast<std::uintptr_t>(data.data()),
             first = reinterpret_cast<std::uintptr_t>(registered.data());
  if (begin < first || begin + data.size() > first + registered.size()) return std::nullopt;
  const std::size_t index = (begin - first) / kBufferBytes;
  if ((begin - first + data.size() - 1) / kBufferBytes != index) return std::nullopt;
  return static_cast<int>(index);
}

// What the administrator has done, where that can be seen.
std::string why_refused(int code) {
  if (code != EPERM) return {};
  std::ifstream file("/proc/sys/kernel/io_uring_disabled");
  int disabled = 0;
  if (file >> disabled && disabled != 0)
    return fmt::format(" (kernel.io_uring_disabled is {})", disabled);
  return " (as containers do that filter system calls)";
}

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
  UringEngine(std::unique_ptr<Ring> ring, FileDescriptor wake, const FileEngineOptions& options)
      : queue_(options.piece_bytes),
        ring_(std::move(ring)),
        wake_(std::move(wake)),
        slots_(static_cast<std::size_t>(options.queue_depth)),
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
  const std::string& why_unregistered() const override { return ring_->why_unregistered; }

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
    std::span<std::byte> first;
    try {
      first = io_failpoint(piece);
    } catch (...) {
      return end(index, std::current_exception());
    }
    submit(index, first);
  }

  /// The ring has one entry per slot and one for the eventfd, so an entry is always free here.
  void submit(std::size_t index, std::span<std::byte> data) noexcept {
    const IoPiece& piece = slots_[index].piece;
    io_uring_sqe* entry = io_uring_get_sqe(&ring_->ring);
    const int file = piece.file->descriptor();
    const auto size = static_cast<unsigned>(data.size());
    const auto offset = static_cast<std::uint64_t>(piece.offset);
    const bool reading = piece.direction == IoDirection::kRead;
    if (const std::optional<int> buffer = ring_->buffer_of(data)) {
      if (reading) {
        io_uring_prep_read_fixed(entry, file, data.data(), size, offset, *buffer);
      } else {
        io_uring_prep_write_fixed(entry, file, data.data(), size, offset, *buffer);
      }
    } else if (reading) {
      io_uring_prep_read(entry, file, data.data(), size, offset);
    } else {
      io_uring_prep_write(entry, file, data.data(), size, offset);
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
    try {
      if (!advance(piece, result)) return end(index, nullptr);
    } catch (...) {
      return end(index, std::current_exception());
    }
    submit(index, piece.data);
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
      if (slots_[i].busy) completed(i, -code);
    }
    while (auto piece = queue_.take()) {
      slots_[0].piece = std::move(*piece);
      ++num_busy_;
      completed(0, -code);
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

std::unique_ptr<FileEngine> make_uring_engine(const FileEngineOptions& options,
                                              std::string& refusal) {
  auto ring = std::make_unique<Ring>();
  const int result =
      io_uring_queue_init(static_cast<unsigned>(options.queue_depth) + 1, &ring->ring, 0);
  if (result < 0) {
    refusal = std::strerror(-result) + why_refused(-result);
    return nullptr;
  }
  ring->live = true;
  if (!supports_read_and_write(ring->ring)) {
    refusal = "this kernel's io_uring has no plain reads and writes";
    return nullptr;
  }
  FileDescriptor wake(::eventfd(0, EFD_CLOEXEC));
  if (!wake) throw_errno("eventfd", "file engine");
  ring->register_memory(options.registered);
  return std::make_unique<UringEngine>(std::move(ring), std::move(wake), options);
}

}  // namespace thimble::internal
