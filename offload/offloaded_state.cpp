#include "offload/offloaded_state.h"

#include <algorithm>
#include <numeric>

#include "core/ops/ops.h"

namespace thimble {
OffloadedState::~OffloadedState() {
  for (Buffer& buffer : buffers_) {
    try {
      wait_all(buffer.io);
    } catch (const std::exception&) {
      // An error has ended the step already, or nobody wants these bytes any more.
    }
  }
}

void OffloadedState::create(StateId id) {
  if (home_.disk() == nullptr || home_.is_recovered()) return;
  drop_ahead();
  wait_for_writes(nullptr);
  home_.disk()->create(home_.key_of(home_.table()[id]));
  cache_.create(id);
}

void OffloadedState::erase(StateId id) {
  if (home_.disk() == nullptr || home_.is_recovered()) return;
  drop_ahead();
  wait_for_writes(nullptr);
  cache_.erase(id);
  home_.disk()->erase(home_.key_of(home_.table()[id]));
}

// For good: what was not written must not be committed by whoever tries again.
void OffloadedState::throw_failure() const {
  if (failure_) std::rethrow_exception(failure_);
}

void OffloadedState::free(Buffers::iterator buffer) {
  ring_.give_back(buffer->begin);
  buffers_.erase(buffer);
}

// Waits for a write and frees its memory.
void OffloadedState::finish_write(Buffers::iterator buffer) {
  std::vector<Completion> io = std::move(buffer->io);
  free(buffer);
  try {
    wait_all(io);
  } catch (...) {
    failure_ = std::current_exception();
    throw;
  }
}

// Frees what has been written.
void OffloadedState::reap() {
  for (auto buffer = buffers_.begin(); buffer != buffers_.end();) {
    const auto now = buffer++;
    const bool done =
        now->phase == Phase::kGoing &&
        std::all_of(now->io.begin(), now->io.end(), [](const Completion& c) { return c.done(); });
    if (done) finish_write(now);
  }
}

// Waits for all writes, or for those of some bytes.
void OffloadedState::wait_for_writes(const KeyRange* of) {
  for (auto buffer = buffers_.begin(); buffer != buffers_.end();) {
    const auto now = buffer++;
    if (now->phase == Phase::kGoing && (of == nullptr || now->range.overlaps(*of)))
      finish_write(now);
  }
}

// Whether no write of these bytes is under way, or is going to be by a lease that still runs.
bool OffloadedState::is_free_of_writes(const StateUse& use) const {
  const KeyRange range = home_.range_of(home_.table()[use.id], use.rows);
  return std::none_of(buffers_.begin(), buffers_.end(), [&](const Buffer& b) {
    return b.use.access != StateAccess::kRead && b.range.overlaps(range);
  });
}

// A buffer for a use, whose bytes are on their way; end() if there is no room now.
OffloadedState::Buffers::iterator OffloadedState::make_buffer(const StateUse& use, bool may_wait) {
  SlotDisk& disk = *home_.disk();
  const KeyRange range = home_.range_of(home_.table()[use.id], use.rows);
  std::optional<std::int64_t> begin = ring_.take(disk.room(range));
  while (!begin && may_wait) {
    const auto going = std::find_if(buffers_.begin(), buffers_.end(),
                                    [](const Buffer& b) { return b.phase == Phase::kGoing; });
    if (going == buffers_.end()) {
      throw_system("offload: a window of {} is too small for an update of {}; set offload.window",
                   format_bytes(home_.window_bytes()),
                   home_.table().params().info(home_.table()[use.id].param).name);
    }
    finish_write(going);
    begin = ring_.take(disk.room(range));
  }
  if (!begin) return buffers_.end();
  Buffer& buffer =
      buffers_.emplace_back(Buffer{.use = use, .range = range, .begin = *begin, .lent = {}});
  buffer.at = home_.window() + *begin + disk.lead(range);
  try {
    if (use.access != StateAccess::kOverwrite) buffer.io = disk.start_read(range, buffer.at);
  } catch (...) {
    free(std::prev(buffers_.end()));
    throw;
  }
  return std::prev(buffers_.end());
}

void OffloadedState::read_ahead() {
  while (ahead_ < order_.size()) {
    const StateUse& use = order_[ahead_];
    if (home_.range_of(home_.table()[use.id], use.rows).bytes() > 0) {
      if (!is_free_of_writes(use) || make_buffer(use, false) == buffers_.end()) return;
    }
    ++ahead_;
  }
}

// Forgets what was read ahead.
void OffloadedState::drop_ahead() {
  for (auto buffer = buffers_.begin(); buffer != buffers_.end();) {
    const auto now = buffer++;
    if (now->phase != Phase::kComing) continue;
    std::vector<Completion> io = std::move(now->io);
    wait_all(io);
    free(now);
  }
  ahead_ = 0;
}

void OffloadedState::announce(std::span<const StateUse> order) {
  if (home_.disk() == nullptr) return;
  std::deque<StateUse> next;
  std::copy_if(order.begin(), order.end(), std::back_inserter(next), [&](const StateUse& use) {
    // Other weights are made of masters.
    return OffloadHome::is_on_disk(home_.table()[use.id]) && !cache_.holds(use.id);
  });
  const bool goes_on =
      ahead_ <= next.size() &&
      std::equal(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(ahead_),
                 next.begin());
  if (!goes_on) drop_ahead();
  order_ = std::move(next);
  reap();
  read_ahead();
}

// The buffer of a use: the next one that was read ahead, or a new one.
OffloadedState::Buffers::iterator OffloadedState::take_ahead(const StateUse& use) {
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
  const KeyRange range = home_.range_of(home_.table()[use.id], use.rows);
  wait_for_writes(&range);
  return make_buffer(use, true);
}

Tensor OffloadedState::lend(const Buffer& buffer) {
  const StateEntry& entry = home_.table()[buffer.use.id];
  const Tensor here = Tensor::wrap(buffer.at, entry.slot.dtype, entry.slot.piece(buffer.use.rows),
                                   home_.arena().pinned().device());
  const bool on_host = buffer.use.on_cpu || entry.tier == StateTier::kHost;
  if (on_host || home_.arena().is_on_cpu()) return here;
  const Tensor there = Tensor::empty(home_.arena(), entry.tag, entry.slot.dtype, here.shape(),
                                     "state from the disk");
  if (buffer.use.access != StateAccess::kOverwrite) ops::from_host(there, here.raw());
  return there;
}

std::int64_t OffloadedState::row_multiple(ParamId id) const {
  std::int64_t multiple = 1;
  for (const StateEntry& entry : home_.table().of(id)) {
    if (!OffloadHome::is_on_disk(entry) || entry.slot.shared()) continue;
    // So many rows have so many bytes.
    const std::int64_t bytes = entry.slot.values * dtype_size(entry.slot.dtype);
    const std::int64_t rows =
        entry.slot.rows * (SlotDisk::kBlock / std::gcd(bytes, SlotDisk::kBlock));
    multiple = std::lcm(multiple, rows);
  }
  return multiple;
}

StateLease OffloadedState::lease_cached(const StateUse& use) {
  return {*this, use, lend({.use = use, .range = {}, .at = cache_.acquire(use), .lent = {}})};
}

StateLease OffloadedState::lease_planned(const StateUse& use) {
  const StateEntry& entry = home_.table()[use.id];
  const std::int64_t bytes = home_.range_of(entry, use.rows).bytes();
  if (use.access != StateAccess::kOverwrite) home_.plan_read(use.times * bytes);
  if (use.access != StateAccess::kRead) home_.plan_write(use.times * bytes);
  return {*this, use, lend({.use = use, .range = {}, .at = home_.window(), .lent = {}})};
}

StateLease OffloadedState::acquire(const StateUse& use) {
  throw_failure();
  if (home_.disk() != nullptr) home_.in_use();
  if (cache_.holds(use.id)) return lease_cached(use);
  if (home_.disk() == nullptr) return lease_planned(use);
  const StateEntry& entry = home_.table()[use.id];
  if (home_.range_of(entry, use.rows).bytes() == 0) {
    if (!order_.empty() && order_.front() == use) {
      order_.pop_front();
      if (ahead_ > 0) --ahead_;
    }
    return {*this, use, lend({.use = use, .range = {}, .at = home_.window(), .lent = {}})};
  }
  const auto buffer = take_ahead(use);
  buffer->phase = Phase::kLeased;
  try {
    wait_all(buffer->io);
    if (use.access != StateAccess::kOverwrite) home_.disk()->check_read(buffer->range, buffer->at);
    buffer->lent = lend(*buffer);
  } catch (...) {
    buffer->io.clear();
    free(buffer);
    throw;
  }
  buffer->io.clear();
  read_ahead();
  return {*this, use, buffer->lent};
}

void OffloadedState::release(const StateUse& use, const Tensor& tensor) noexcept {
  if (cache_.holds(use.id)) return release_cached(use, tensor);
  if (home_.disk() == nullptr || tensor.nbytes() == 0) return;
  const auto buffer = std::find_if(buffers_.begin(), buffers_.end(), [&](const Buffer& b) {
    return b.phase == Phase::kLeased && b.lent.raw() == tensor.raw();
  });
  try {
    if (use.access == StateAccess::kRead) {
      free(buffer);
      return;
    }
    if (tensor.raw() != buffer->at) ops::to_host(buffer->at, tensor);
    buffer->lent = {};
    if (home_.disk()->would_cut(buffer->range)) wait_for_writes(nullptr);
    buffer->io = home_.disk()->start_write(buffer->range, buffer->at);
    buffer->phase = Phase::kGoing;
    reap();
    read_ahead();
  } catch (...) {
    if (!failure_) failure_ = std::current_exception();
  }
}

void OffloadedState::release_cached(const StateUse& use, const Tensor& tensor) noexcept {
  if (use.access == StateAccess::kRead) return;
  try {
    const bool copied = home_.disk() != nullptr && tensor.raw() != cache_.at(use);
    if (copied) ops::to_host(cache_.at(use), tensor);
    cache_.changed(use);
  } catch (...) {
    if (!failure_) failure_ = std::current_exception();
  }
}

void OffloadedState::commit(std::int64_t step) {
  throw_failure();
  if (home_.disk() == nullptr) return home_.commits().end(step);
  home_.in_use();
  drop_ahead();
  order_.clear();
  if (!home_.commits().is_due(step)) return home_.commits().end(step);
  wait_for_writes(nullptr);
  try {
    cache_.flush();
    home_.disk()->commit(step, home_.note());
    home_.commits().end(step);
  } catch (...) {
    failure_ = std::current_exception();
    throw;
  }
}

}  // namespace thimble
