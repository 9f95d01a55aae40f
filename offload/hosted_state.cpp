#include "offload/hosted_state.h"

#include <algorithm>

#include "core/base/numeric.h"
#include "core/device/device_memory.h"
#include "core/nn/resident_state.h"
#include "core/ops/ops.h"

namespace thimble {
namespace {

constexpr std::int64_t kAlignment = 256;  // of what kernels are given
constexpr std::size_t kMostAhead = 64;    // uses

bool overlap(const Tensor& a, const Tensor& b) {
  const auto *first = static_cast<const std::byte*>(a.raw()),
             *second = static_cast<const std::byte*>(b.raw());
  return first < second + b.nbytes() && second < first + a.nbytes();
}

}  // namespace

HostedState::HostedState(Arena& arena, const StateTable& table, int rank, std::int64_t window_bytes)
    : arena_(arena),
      table_(table),
      rank_(rank),
      window_bytes_(round_up(window_bytes, kAlignment)),
      tensors_(table.entries().size()),
      window_(arena.reserve(MemoryTag::kIo, window_bytes_ + kAlignment, "window of state")),
      ring_(window_bytes_) {}

HostedState::~HostedState() {
  for (Buffer& buffer : buffers_) {
    try {
      wait_all(buffer.copies);
    } catch (const std::exception&) {
      // An error has ended the step already, or nobody wants these bytes any more.
    }
  }
}

// Nothing is under way then, and nothing announced.
void HostedState::settle() {
  drop_ahead();
  order_.clear();
  wait_for_copies(nullptr);
}

void HostedState::create(StateId id) {
  settle();
  const StateEntry& entry = table_[id];
  Tensor& tensor = tensors_.at(static_cast<std::size_t>(id));
  if (!tensor.defined()) {
    tensor = Tensor::empty(arena_.pinned(), entry.tag, entry.slot.dtype,
                           entry.slot.piece(entry.held_rows(rank_)), entry.slot.name);
  }
  ops::zero(tensor);
}

void HostedState::erase(StateId id) {
  settle();
  tensors_.at(static_cast<std::size_t>(id)) = {};
}

bool HostedState::stays_home(const StateUse& use) const {
  return use.on_cpu || table_[use.id].tier == StateTier::kHost;
}

Tensor HostedState::rows_at_home(const StateUse& use) const {
  const Tensor& held = tensors_.at(static_cast<std::size_t>(use.id));
  TH_CHECK(held.defined(), "no state {}", table_[use.id].slot.name);
  return rows_of_held(table_[use.id], rank_, held, use.rows);
}

Tensor HostedState::in_window(const Tensor& home, std::int64_t begin) const {
  const auto address = reinterpret_cast<std::uintptr_t>(window_.data());
  auto* first =
      static_cast<std::byte*>(window_.data()) + (kAlignment - address % kAlignment) % kAlignment;
  return Tensor::wrap(first + begin, home.dtype(), home.shape(), arena_.device());
}

void HostedState::count(const StateUse& use, const Tensor& home) {
  if (use.access != StateAccess::kOverwrite) traffic_.to_gpu += use.times * home.nbytes();
  if (use.access != StateAccess::kRead) traffic_.to_host += use.times * home.nbytes();
}

// For good: what did not come home must not be taken for what was computed.
void HostedState::throw_failure() const {
  if (failure_) std::rethrow_exception(failure_);
}

void HostedState::free(Buffers::iterator buffer) {
  if (buffer->begin != kAtHome) ring_.give_back(buffer->begin);
  buffers_.erase(buffer);
}

void HostedState::finish_copy(Buffers::iterator buffer) {
  std::vector<Completion> copies = std::move(buffer->copies);
  free(buffer);
  try {
    wait_all(copies);
  } catch (...) {
    failure_ = std::current_exception();
    throw;
  }
}

// Frees what has been copied.
void HostedState::reap() {
  for (auto buffer = buffers_.begin(); buffer != buffers_.end();) {
    const auto now = buffer++;
    const bool done =
        now->phase == Phase::kGoing &&
        std::all_of(now->copies.begin(), now->copies.end(), [](const auto& c) { return c.done(); });
    if (done) finish_copy(now);
  }
}

// Waits for all copies of leases that have ended, or for those of some bytes.
void HostedState::wait_for_copies(const Tensor* of) {
  for (auto buffer = buffers_.begin(); buffer != buffers_.end();) {
    const auto now = buffer++;
    if (now->phase == Phase::kGoing && (of == nullptr || overlap(now->home, *of))) finish_copy(now);
  }
}

// Whether nobody is going to change these bytes first, or may be reading what would be changed.
bool HostedState::is_free_of_changes(const StateUse& use, const Tensor& home) const {
  const bool changes = use.access != StateAccess::kRead;
  return std::none_of(buffers_.begin(), buffers_.end(), [&](const Buffer& b) {
    return (changes || b.use.access != StateAccess::kRead) && overlap(b.home, home);
  });
}

// A buffer for a use, whose bytes are on their way; end() if there is no room now.
HostedState::Buffers::iterator HostedState::make_buffer(const StateUse& use, bool may_wait) {
  const Tensor home = rows_at_home(use);
  if (stays_home(use)) {
    buffers_.push_back({.use = use, .home = home, .lent = home});
    return std::prev(buffers_.end());
  }
  const std::int64_t room = round_up(home.nbytes(), kAlignment);
  std::optional<std::int64_t> begin = ring_.take(room);
  while (!begin && may_wait) {
    const auto going = std::find_if(buffers_.begin(), buffers_.end(),
                                    [](const Buffer& b) { return b.phase == Phase::kGoing; });
    if (going == buffers_.end()) {
      throw_system("offload: a window of {} is too small for an update of {}; set offload.window",
                   format_bytes(window_bytes_), table_.params().info(table_[use.id].param).name);
    }
    finish_copy(going);
    begin = ring_.take(room);
  }
  if (!begin) return buffers_.end();
  Buffer& buffer = buffers_.emplace_back(
      Buffer{.use = use, .home = home, .begin = *begin, .lent = in_window(home, *begin)});
  try {
    if (use.access != StateAccess::kOverwrite) {
      buffer.copies.push_back(device_memory(arena_.device().kind)
                                  .start_from_host(buffer.lent.raw(), home.raw(), home.nbytes()));
    }
  } catch (...) {
    free(std::prev(buffers_.end()));
    throw;
  }
  return std::prev(buffers_.end());
}

void HostedState::read_ahead() {
  while (ahead_ < std::min(order_.size(), kMostAhead)) {
    const StateUse& use = order_[ahead_];
    const Tensor home = rows_at_home(use);
    if (home.nbytes() > 0) {
      if (!is_free_of_changes(use, home) || make_buffer(use, false) == buffers_.end()) return;
    }
    ++ahead_;
  }
}

// Forgets what was copied ahead.
void HostedState::drop_ahead() {
  for (auto buffer = buffers_.begin(); buffer != buffers_.end();) {
    const auto now = buffer++;
    if (now->phase == Phase::kComing) finish_copy(now);
  }
  ahead_ = 0;
}

void HostedState::announce(std::span<const StateUse> order) {
  if (is_planning()) return;
  const bool goes_on =
      ahead_ <= order.size() &&
      std::equal(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(ahead_),
                 order.begin());
  if (!goes_on) drop_ahead();
  order_.assign(order.begin(), order.end());
  reap();
  read_ahead();
}

// The buffer of a use: the next one that was copied ahead, or a new one.
HostedState::Buffers::iterator HostedState::take_ahead(const StateUse& use) {
  const bool foreseen = !order_.empty() && order_.front() == use;
  if (foreseen && ahead_ > 0) {
    --ahead_;
    order_.pop_front();
    const auto found = std::find_if(buffers_.begin(), buffers_.end(), [&](const Buffer& b) {
      return b.phase == Phase::kComing && b.use == use;
    });
    TH_CHECK(found != buffers_.end());
    return found;
  }
  drop_ahead();
  if (foreseen) {
    order_.pop_front();
  } else {
    order_.clear();
  }
  const Tensor home = rows_at_home(use);
  wait_for_copies(&home);
  return make_buffer(use, true);
}

StateLease HostedState::acquire(const StateUse& use) {
  throw_failure();
  const Tensor home = rows_at_home(use);
  const bool stays = stays_home(use);
  if (!stays) count(use, home);
  if (is_planning()) return {*this, use, stays ? home : in_window(home, 0)};
  if (home.nbytes() == 0) {
    if (!order_.empty() && order_.front() == use) {
      order_.pop_front();
      if (ahead_ > 0) --ahead_;
    }
    return {*this, use, stays ? home : in_window(home, 0)};
  }
  const auto buffer = take_ahead(use);
  buffer->phase = Phase::kLeased;
  try {
    for (Completion& copy : buffer->copies) copy.follow();
  } catch (...) {
    free(buffer);
    throw;
  }
  read_ahead();
  return {*this, use, buffer->lent};
}

void HostedState::release(const StateUse& use, const Tensor& tensor) noexcept {
  if (is_planning() || tensor.nbytes() == 0) return;
  const auto buffer = std::find_if(buffers_.begin(), buffers_.end(), [&](const Buffer& b) {
    return b.phase == Phase::kLeased && b.use == use && b.lent.raw() == tensor.raw();
  });
  try {
    if (buffer->begin == kAtHome) {
      free(buffer);
    } else {
      // Its copy to the GPU is followed, but may not be done.
      if (use.access != StateAccess::kRead) {
        buffer->copies.push_back(
            device_memory(arena_.device().kind)
                .start_to_host(buffer->home.raw(), tensor.raw(), tensor.nbytes()));
      }
      buffer->phase = Phase::kGoing;
    }
    reap();
    read_ahead();
  } catch (...) {
    if (!failure_) failure_ = std::current_exception();
  }
}

// What still goes home is waited for by whoever reads it.
void HostedState::commit(std::int64_t) {
  reap();
  throw_failure();
}

}  // namespace thimble
