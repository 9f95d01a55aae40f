// The only way to get bytes. Every reservation carries a tag, so that a plan and a measurement can
// be laid side by side; in plan mode the same code runs the same sequence on a null base and
// nothing is touched.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/device/device.h"

namespace thimble {

enum class MemoryTag : std::uint8_t {
  kWeights,
  kMaster,
  kGradients,
  kOptimizer,
  kActivations,
  kWorkspace,
  kComm,
  kSnapshot,
  kKv,
  kIo,
};
inline constexpr int kNumMemoryTags = 10;
std::string_view memory_tag_name(MemoryTag tag);

using TagBytes = std::array<std::int64_t, kNumMemoryTags>;

/// The most that was live at once during one phase (load, step, eval, ...).
struct MemoryPeak {
  std::string phase;
  std::int64_t total_bytes = 0;  // most bytes live at once
  TagBytes at_peak{};            // what they were at that moment
  TagBytes by_tag{};             // each tag's own maximum, at whatever moment
  friend bool operator==(const MemoryPeak&, const MemoryPeak&) = default;
};

class Arena;

/// Bytes that go back to their arena when this is destroyed.
class [[nodiscard]] Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation();

  void* data() const { return data_; }
  std::int64_t size_bytes() const { return bytes_; }
  Arena* arena() const { return arena_; }

 private:
  friend class Arena;
  Arena* arena_ = nullptr;
  void* data_ = nullptr;
  std::int64_t bytes_ = 0;
  std::int64_t offset_ = 0;
  MemoryTag tag_ = MemoryTag::kWorkspace;
};

/// Hands out ranges of one address space, best fit, lowest address first: the same sequence of
/// calls gives the same offsets on a real and on a planning arena. Thread-safe. Must outlive its
/// reservations.
class Arena {
 public:
  /// A real arena over `capacity_bytes` of address space; pages become resident when first touched.
  /// Throws SystemError if the address space is refused.
  static std::unique_ptr<Arena> make_cpu(std::int64_t capacity_bytes);
  /// An arena in the memory of a GPU, all of it allocated at once, with `host_bytes` of pinned host
  /// memory as its pinned(). Throws UserError without a GPU.
  static std::unique_ptr<Arena> make_gpu(std::int64_t capacity_bytes, std::int64_t host_bytes);
  /// One of the two above; host_bytes is not used on a CPU.
  static std::unique_ptr<Arena> make(DeviceKind kind, std::int64_t capacity_bytes,
                                     std::int64_t host_bytes) {
    return kind == DeviceKind::kCpu ? make_cpu(capacity_bytes)
                                    : make_gpu(capacity_bytes, host_bytes);
  }
  /// Plan mode: unlimited, no bytes behind it; its pointers must never be read.
  static std::unique_ptr<Arena> make_planning(DeviceKind kind = DeviceKind::kCpu);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Reserves `bytes` (0 is allowed), aligned to 64 bytes, or to 4096 from 64 KiB on.
  /// Uninitialised. Throws SystemError with the table of what is live if the capacity is exceeded.
  /// The address sanitizer reports a use of bytes that have gone back. Failpoint "arena.reserve".
  Reservation reserve(MemoryTag tag, std::int64_t bytes, std::string_view label);

  Device device() const { return device_; }
  /// Pinned host memory, which the host reads and writes, for staging buffers of copies to and from
  /// the device: the arena itself on a CPU. It shares the phases of this arena.
  Arena& pinned() { return host_ ? *host_ : *this; }
  bool is_on_cpu() const { return host_ == nullptr; }
  std::int64_t capacity_bytes() const { return capacity_; }
  std::int64_t live_bytes(MemoryTag tag) const;
  std::int64_t live_bytes() const;
  /// End of the highest range ever handed out: what the process can have resident through this
  /// arena.
  std::int64_t extent_bytes() const;
  /// A hash of the ranges in use now: from equal layouts the same calls get the same addresses.
  std::uint64_t layout_hash() const;

  /// Starts (or goes back into) a phase; peaks are kept per phase name.
  void begin_phase(std::string_view name);
  std::vector<MemoryPeak> peaks() const;
  /// The maximum over all phases; its phase is the one that holds the highest total.
  MemoryPeak peak() const;

  /// Fills bytes with 0xFF (NaN in every float type) when they are handed out and when they come
  /// back: tests use it to show that nothing reads what it did not write.
  void set_poison(bool poison);

 private:
  friend class Reservation;
  friend class PhaseScope;
  struct Impl;
  Arena(Device device, std::int64_t capacity_bytes);
  using Release = void (*)(void* base, std::int64_t bytes);
  static std::unique_ptr<Arena> make_real(DeviceKind kind, std::int64_t capacity_bytes,
                                          void* (*allocate)(std::int64_t), Release release);
  void give_back(const Reservation& reservation) noexcept;

  Device device_;
  std::int64_t capacity_;
  char* base_ = nullptr;
  Release release_ = nullptr;
  std::unique_ptr<Arena> host_;
  bool poison_ = false;
  std::unique_ptr<Impl> impl_;
};

/// Enters a phase and returns to the previous one at the end of the scope.
class PhaseScope {
 public:
  PhaseScope(Arena& arena, std::string_view phase);
  ~PhaseScope();
  PhaseScope(const PhaseScope&) = delete;
  PhaseScope& operator=(const PhaseScope&) = delete;

 private:
  Arena& arena_;
  std::string previous_;
};

}  // namespace thimble
