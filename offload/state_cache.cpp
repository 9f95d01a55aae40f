#include "offload/state_cache.h"

#include <algorithm>
#include <cstring>

#include "core/base/numeric.h"

namespace thimble {
namespace {

// Wherever it begins in a block.
std::int64_t room_of(const StateEntry& entry, int rank) {
  return round_up(entry.held(rank).size, SlotDisk::kBlock) + SlotDisk::kBlock;
}

// Whether forward and backward passes read the entry, where weights are on disk.
bool is_read_by_passes(const StateTable& table, const StateEntry& entry) {
  if (entry.in_weight_store()) return true;
  const StateEntry& weight = *table.find(entry.param, StateKind::kWeight);
  return entry.slot.kind == StateKind::kMaster && !OffloadHome::is_on_disk(weight);
}

// Passing, it is in no commit.
bool is_gradient(const StateEntry& entry) {
  return entry.slot.kind == StateKind::kGradient;
}

}  // namespace

std::vector<StateId> choose_cached(const StateTable& table, int rank, bool weights,
                                   std::int64_t bytes) {
  std::vector<std::pair<std::size_t, StateId>> wanted;  // by rank of worth
  for (const ParamId id : table.params().ids()) {
    std::size_t kind = 2;
    for (const StateEntry& entry : table.of(id)) {
      const bool moves = OffloadHome::is_on_disk(entry) && (weights || !entry.in_weight_store());
      if (!moves || entry.held(rank).size == 0) continue;
      const bool first = weights && is_read_by_passes(table, entry);
      wanted.emplace_back(first ? 0 : is_gradient(entry) ? 1 : kind, entry.id);
      ++kind;
    }
  }
  std::stable_sort(wanted.begin(), wanted.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<StateId> chosen;
  std::int64_t left = bytes - SlotDisk::kBlock;
  for (const auto& [worth, id] : wanted) {
    const std::int64_t room = room_of(table[id], rank);
    if (room > left) continue;
    left -= room;
    chosen.push_back(id);
  }
  return chosen;
}

std::int64_t cache_bytes(const StateTable& table, int rank, std::span<const StateId> cached) {
  std::int64_t bytes = cached.empty() ? 0 : SlotDisk::kBlock;
  for (const StateId id : cached) bytes += room_of(table[id], rank);
  return bytes;
}

StateCache::StateCache(OffloadHome& home) : home_(home), held_(home.table().entries().size()) {
  const std::vector<StateId>& cached = home.cached();
  if (cached.empty()) return;
  memory_ = home.arena().pinned().reserve(MemoryTag::kOptimizer,
                                          cache_bytes(home.table(), home.rank(), cached),
                                          "state that stays in memory");
  const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
  first_ = static_cast<std::byte*>(memory_.data()) +
           (SlotDisk::kBlock - address % SlotDisk::kBlock) % SlotDisk::kBlock;
  std::int64_t begin = 0;
  for (const StateId id : cached) {
    held(id).begin = begin;
    begin += room_of(home.table()[id], home.rank());
  }
}

StateCache::~StateCache() {
  for (Write& write : writes_) {
    try {
      wait_all(write.io);
    } catch (const std::exception&) {
      // An error has ended the step already, or nobody wants these bytes any more.
    }
  }
}

KeyRange StateCache::range_of(const StateUse& use) const {
  return home_.range_of(home_.table()[use.id], use.rows);
}

KeyRange StateCache::whole(const StateEntry& entry) const {
  return home_.range_of(entry, entry.held_rows(home_.rank()));
}

// Whether the array lies in its file where memory at the same place would not be aligned.
bool StateCache::lies_at_any_place(const KeyRange& range) const {
  return home_.disk()->bytes_to_run_end(range.key, 0) % 8 != 0;
}

std::byte* StateCache::address(const Held& held, const KeyRange& range) const {
  const std::int64_t lead =
      home_.disk() == nullptr ? 0 : home_.disk()->lead({.key = range.key, .begin = 0, .end = 0});
  return first_ + held.begin + lead + range.begin;
}

std::byte* StateCache::at(const StateUse& use) const {
  return address(held(use.id), range_of(use));
}

void StateCache::create(StateId id) {
  if (!holds(id)) return;
  const KeyRange all = whole(home_.table()[id]);
  wait_for_writes(all);
  std::memset(address(held(id), all), 0, static_cast<std::size_t>(all.bytes()));
  held(id).is_here = true;
  held(id).is_ahead = false;
}

void StateCache::erase(StateId id) {
  if (!holds(id)) return;
  wait_for_writes(whole(home_.table()[id]));
  held(id).is_here = held(id).is_ahead = false;
}

std::byte* StateCache::acquire(const StateUse& use) {
  if (failure_) std::rethrow_exception(failure_);
  const KeyRange range = range_of(use);
  if (home_.disk() != nullptr && range.bytes() > 0) {
    if (use.access != StateAccess::kRead) wait_for_writes(range);
    if (!held(use.id).is_here) read(home_.table()[use.id]);
  }
  return address(held(use.id), range);
}

void StateCache::read(const StateEntry& entry) {
  const KeyRange all = whole(entry);
  std::byte* const at = address(held(entry.id), all);
  std::vector<Completion> io = home_.disk()->start_read(all, at);
  wait_all(io);
  home_.disk()->check_read(all, at);
  held(entry.id).is_here = true;
}

// Now, if the running step is committed. What is ahead of the disk already, and what lies at any
// place, is written as a whole by the commit.
void StateCache::changed(const StateUse& use) {
  if (is_gradient(home_.table()[use.id])) return;
  const KeyRange range = range_of(use);
  const bool now = home_.commits().will_be_due();
  if (home_.disk() == nullptr) {
    if (now) home_.plan_write(use.times * range.bytes());
    return;
  }
  if (!now || held(use.id).is_ahead || lies_at_any_place(range)) {
    held(use.id).is_ahead = true;
    return;
  }
  reap();
  write(home_.table()[use.id], range);
}

void StateCache::write(const StateEntry& entry, const KeyRange& range) {
  if (home_.disk()->would_cut(range)) wait_for_writes(whole(entry));
  writes_.push_back({range, home_.disk()->start_write(range, address(held(entry.id), range))});
}

void StateCache::flush() {
  if (failure_) std::rethrow_exception(failure_);
  for (const StateEntry& entry : home_.table().entries()) {
    if (!held(entry.id).is_ahead) continue;
    wait_for_writes(whole(entry));
    write(entry, whole(entry));
    held(entry.id).is_ahead = false;
  }
  while (!writes_.empty()) finish(writes_.begin());
}

void StateCache::finish(Writes::iterator write) {
  std::vector<Completion> io = std::move(write->io);
  writes_.erase(write);
  try {
    wait_all(io);
  } catch (...) {
    failure_ = std::current_exception();  // for good: it must not be committed
    throw;
  }
}

void StateCache::wait_for_writes(const KeyRange& of) {
  for (auto write = writes_.begin(); write != writes_.end();) {
    const auto now = write++;
    if (now->range.overlaps(of)) finish(now);
  }
}

void StateCache::reap() {
  for (auto write = writes_.begin(); write != writes_.end();) {
    const auto now = write++;
    if (std::all_of(now->io.begin(), now->io.end(), [](const Completion& c) { return c.done(); }))
      finish(now);
  }
}

}  // namespace thimble
