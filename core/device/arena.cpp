#include "core/device/arena.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/numeric.h"
#include "core/base/random.h"
#include "core/device/device_memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define THIMBLE_FORBID(at, bytes) ASAN_POISON_MEMORY_REGION(at, bytes)
#define THIMBLE_ALLOW(at, bytes) ASAN_UNPOISON_MEMORY_REGION(at, bytes)
#else
#define THIMBLE_FORBID(at, bytes) static_cast<void>(0)
#define THIMBLE_ALLOW(at, bytes) static_cast<void>(0)
#endif

namespace thimble {
namespace {

constexpr std::int64_t kSmallAlign = 64;
constexpr std::int64_t kPageAlign = 4096;
constexpr std::int64_t kPlanCapacity = std::int64_t{1} << 46;
// Never dereferenced; only keeps pointer arithmetic away from null.
constexpr std::uintptr_t kPlanBase = std::uintptr_t{1} << 46;

std::size_t index_of(MemoryTag tag) {
  return static_cast<std::size_t>(tag);
}

std::int64_t sum(const TagBytes& bytes) {
  std::int64_t total = 0;
  for (const std::int64_t b : bytes) total += b;
  return total;
}

}  // namespace

std::string_view memory_tag_name(MemoryTag tag) {
  static constexpr std::array<std::string_view, kNumMemoryTags> kNames{
      "weights",   "master", "gradients", "optimizer", "activations",
      "workspace", "comm",   "snapshot",  "kv",        "io"};
  return kNames[index_of(tag)];
}

struct Arena::Impl {
  mutable std::mutex mutex;
  std::map<std::int64_t, std::int64_t> free;  // below top; offset -> bytes, never adjacent
  TagBytes live{};
  std::int64_t top = 0;     // the end of what is in use
  std::int64_t extent = 0;  // the highest that it has been
  std::vector<MemoryPeak> peaks;
  std::size_t phase = 0;

  std::int64_t take(std::int64_t bytes, std::int64_t align, std::int64_t capacity);
  void put(std::int64_t offset, std::int64_t bytes);
  void note_peak();
};

// Best fit over the free ranges among what is in use, else what is behind all of it. So addresses
// depend on what is in use alone, not on how much has ever been.
std::int64_t Arena::Impl::take(std::int64_t bytes, std::int64_t align, std::int64_t capacity) {
  auto best = free.end();
  std::int64_t best_waste = 0;
  for (auto it = free.begin(); it != free.end(); ++it) {
    const std::int64_t start = round_up(it->first, align);
    const std::int64_t waste = it->first + it->second - start - bytes;
    if (waste < 0) continue;
    if (best == free.end() || waste < best_waste) {
      best = it;
      best_waste = waste;
    }
  }
  const std::int64_t range_begin = best != free.end() ? best->first : top,
                     start = round_up(range_begin, align);
  if (best != free.end()) {
    const std::int64_t range_end = best->first + best->second;
    free.erase(best);
    if (start + bytes < range_end) free.emplace(start + bytes, range_end - start - bytes);
  } else {
    if (start + bytes > capacity) return -1;
    top = start + bytes;
    extent = std::max(extent, top);
  }
  if (start > range_begin) free.emplace(range_begin, start - range_begin);
  return start;
}

void Arena::Impl::put(std::int64_t offset, std::int64_t bytes) {
  auto next = free.lower_bound(offset);
  if (next != free.end() && offset + bytes == next->first) {
    bytes += next->second;
    next = free.erase(next);
  }
  if (next != free.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->second == offset) {
      offset = previous->first;
      bytes += previous->second;
      free.erase(previous);
    }
  }
  if (offset + bytes == top) {
    top = offset;
  } else {
    free.emplace(offset, bytes);
  }
}

void Arena::Impl::note_peak() {
  MemoryPeak& peak = peaks[phase];
  const std::int64_t total = sum(live);
  if (total > peak.total_bytes) {
    peak.total_bytes = total;
    peak.at_peak = live;
  }
  for (std::size_t i = 0; i < live.size(); ++i) peak.by_tag[i] = std::max(peak.by_tag[i], live[i]);
}

Reservation::Reservation(Reservation&& other) noexcept {
  *this = std::move(other);
}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  if (this == &other) return *this;
  if (arena_ != nullptr) arena_->give_back(*this);
  arena_ = std::exchange(other.arena_, nullptr);
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  offset_ = other.offset_;
  tag_ = other.tag_;
  return *this;
}

Reservation::~Reservation() {
  if (arena_ != nullptr) arena_->give_back(*this);
}

Arena::Arena(Device device, std::int64_t capacity_bytes)
    : device_(device), capacity_(capacity_bytes), impl_(std::make_unique<Impl>()) {
  impl_->peaks.push_back({.phase = "setup"});
}

std::unique_ptr<Arena> Arena::make_real(DeviceKind kind, std::int64_t capacity_bytes,
                                        void* (*allocate)(std::int64_t), Release release) {
  std::unique_ptr<Arena> arena(new Arena(
      Device{.kind = kind}, round_up(std::max<std::int64_t>(capacity_bytes, 1), 2 * kMiB)));
  arena->base_ = static_cast<char*>(allocate(arena->capacity_));
  arena->release_ = release;
  return arena;
}

std::unique_ptr<Arena> Arena::make_cpu(std::int64_t capacity_bytes) {
  const DeviceMemory& memory = device_memory(DeviceKind::kCpu);
  return make_real(DeviceKind::kCpu, capacity_bytes, memory.allocate, memory.release);
}

std::unique_ptr<Arena> Arena::make_gpu(std::int64_t capacity_bytes, std::int64_t host_bytes) {
  const DeviceMemory& memory = device_memory(DeviceKind::kGpu);
  auto arena = make_real(DeviceKind::kGpu, capacity_bytes, memory.allocate, memory.release);
  arena->host_ = make_real(DeviceKind::kCpu, host_bytes, memory.allocate_host, memory.release_host);
  return arena;
}

std::unique_ptr<Arena> Arena::make_planning(DeviceKind kind) {
  std::unique_ptr<Arena> arena(new Arena(Device{.kind = kind, .planning = true}, kPlanCapacity));
  arena->base_ = reinterpret_cast<char*>(kPlanBase);
  if (kind != DeviceKind::kCpu) arena->host_ = make_planning();
  return arena;
}

Arena::~Arena() {
  if (release_ == nullptr) return;
  THIMBLE_ALLOW(base_, static_cast<std::size_t>(impl_->extent));  // others may map it again
  release_(base_, capacity_);
}

void Arena::set_poison(bool poison) {
  poison_ = poison;
  if (host_) host_->set_poison(poison);
}

Reservation Arena::reserve(MemoryTag tag, std::int64_t bytes, std::string_view label) {
  TH_CHECK(bytes >= 0, "{} bytes for {}", bytes, label);
  const std::int64_t align = bytes >= 64 * kKiB ? kPageAlign : kSmallAlign;
  const std::int64_t held = round_up(std::max<std::int64_t>(bytes, 1), kSmallAlign);
  if (!device_.planning) failpoint("arena.reserve");
  Reservation reservation;
  {
    const std::lock_guard lock(impl_->mutex);
    const std::int64_t offset = impl_->take(held, align, capacity_);
    if (offset < 0) {
      std::string table;
      for (int t = 0; t < kNumMemoryTags; ++t) {
        const std::int64_t live = impl_->live[static_cast<std::size_t>(t)];
        if (live > 0) {
          table += fmt::format(" {} {},", memory_tag_name(static_cast<MemoryTag>(t)),
                               format_bytes(live));
        }
      }
      throw_system("out of memory: {} ({}) asked for {}; live:{} of {}", label,
                   memory_tag_name(tag), format_bytes(bytes), table, format_bytes(capacity_));
    }
    impl_->live[index_of(tag)] += held;
    impl_->note_peak();
    reservation.offset_ = offset;
  }
  reservation.arena_ = this;
  reservation.data_ = base_ + reservation.offset_;
  reservation.bytes_ = held;
  reservation.tag_ = tag;
  if (!device_.planning) THIMBLE_ALLOW(reservation.data_, static_cast<std::size_t>(held));
  if (poison_ && !device_.planning) device_memory(device_.kind).fill(reservation.data_, 0xFF, held);
  return reservation;
}

void Arena::give_back(const Reservation& reservation) noexcept {
  if (poison_ && !device_.planning) {
    try {
      device_memory(device_.kind).fill(reservation.data_, 0xFF, reservation.bytes_);
    } catch (const SystemError& error) {  // of a device that has failed before
      spdlog::error("{}", error.what());
    }
  }
  const std::lock_guard lock(impl_->mutex);
  // Before anybody else can have it.
  if (!device_.planning)
    THIMBLE_FORBID(reservation.data_, static_cast<std::size_t>(reservation.bytes_));
  impl_->live[index_of(reservation.tag_)] -= reservation.bytes_;
  impl_->put(reservation.offset_, reservation.bytes_);
}

std::int64_t Arena::live_bytes(MemoryTag tag) const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->live[index_of(tag)];
}

std::int64_t Arena::live_bytes() const {
  const std::lock_guard lock(impl_->mutex);
  return sum(impl_->live);
}

std::int64_t Arena::extent_bytes() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->extent;
}

std::uint64_t Arena::layout_hash() const {
  const std::lock_guard lock(impl_->mutex);
  std::uint64_t hash = mix64(0, static_cast<std::uint64_t>(impl_->top));
  for (const auto& [offset, bytes] : impl_->free) {
    hash = mix64(hash, static_cast<std::uint64_t>(offset));
    hash = mix64(hash, static_cast<std::uint64_t>(bytes));
  }
  return hash;
}

void Arena::begin_phase(std::string_view name) {
  if (host_) host_->begin_phase(name);
  const std::lock_guard lock(impl_->mutex);
  auto& peaks = impl_->peaks;
  const auto found = std::find_if(peaks.begin(), peaks.end(),
                                  [&](const MemoryPeak& p) { return p.phase == name; });
  impl_->phase = static_cast<std::size_t>(found - peaks.begin());
  if (found == peaks.end()) peaks.push_back({.phase = std::string(name)});
  impl_->note_peak();
}

std::vector<MemoryPeak> Arena::peaks() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->peaks;
}

MemoryPeak Arena::peak() const {
  MemoryPeak top;
  for (const MemoryPeak& phase : peaks()) {
    if (phase.total_bytes > top.total_bytes) {
      top.total_bytes = phase.total_bytes;
      top.at_peak = phase.at_peak;
      top.phase = phase.phase;
    }
    for (std::size_t i = 0; i < top.by_tag.size(); ++i) {
      top.by_tag[i] = std::max(top.by_tag[i], phase.by_tag[i]);
    }
  }
  return top;
}

PhaseScope::PhaseScope(Arena& arena, std::string_view phase) : arena_(arena) {
  {
    const std::lock_guard lock(arena.impl_->mutex);
    previous_ = arena.impl_->peaks[arena.impl_->phase].phase;
  }
  arena.begin_phase(phase);
}

PhaseScope::~PhaseScope() {
  arena_.begin_phase(previous_);
}

}  // namespace thimble
