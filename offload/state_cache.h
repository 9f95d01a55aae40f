// Arrays of the state that stay in memory, so that nobody reads them from the disk. What of them
// has changed is on disk at every commit: a commit is as whole as it is without them. Which arrays
// these are is chosen once, the same for plan and run.
#pragma once

#include <exception>
#include <list>
#include <vector>

#include "offload/offload_home.h"

namespace thimble {

/// The arrays of a rank to keep in so many bytes of memory: those that forward and backward passes
/// read, if `weights` are on disk; then gradients; then one kind after another, so that all updates
/// have the same share of their state in memory while the disk brings the rest.
std::vector<StateId> choose_cached(const StateTable& table, int rank, bool weights,
                                   std::int64_t bytes);
/// The memory that they take.
std::int64_t cache_bytes(const StateTable& table, int rank, std::span<const StateId> cached);

class StateCache {
 public:
  /// Those of home.cached(), in the home's arena.
  explicit StateCache(OffloadHome& home);
  /// Waits for writes under way.
  ~StateCache();
  StateCache(const StateCache&) = delete;
  StateCache& operator=(const StateCache&) = delete;

  bool holds(StateId id) const { return held(id).begin >= 0; }
  /// The array is kept from now on, all zero; it is not kept any more.
  void create(StateId id);
  void erase(StateId id);
  /// The bytes of a use; an array that is not in memory yet comes from the disk. Throws SystemError
  /// if it cannot, or if an earlier write has failed.
  std::byte* acquire(const StateUse& use);
  std::byte* at(const StateUse& use) const;
  /// The bytes of the use have changed.
  void changed(const StateUse& use);
  /// All that has changed is on disk when it returns.
  void flush();

 private:
  struct Held {
    std::int64_t begin = -1;  // in the memory; negative: not held
    bool is_here = false;     // its bytes are, in memory
    bool is_ahead = false;    // of the disk: it has changed and is not being written
  };
  struct Write {
    KeyRange range;
    std::vector<Completion> io;
  };
  using Writes = std::list<Write>;

  Held& held(StateId id) { return held_[static_cast<std::size_t>(id)]; }
  const Held& held(StateId id) const { return held_[static_cast<std::size_t>(id)]; }
  KeyRange range_of(const StateUse& use) const;
  KeyRange whole(const StateEntry& entry) const;
  bool lies_at_any_place(const KeyRange& range) const;
  std::byte* address(const Held& held, const KeyRange& range) const;
  void read(const StateEntry& entry);
  void write(const StateEntry& entry, const KeyRange& range);
  void finish(Writes::iterator write);
  void wait_for_writes(const KeyRange& of);
  void reap();

  OffloadHome& home_;
  std::vector<Held> held_;  // by StateId
  Reservation memory_;
  std::byte* first_ = nullptr;  // of whole blocks
  Writes writes_;
  std::exception_ptr failure_;  // the first one of a write
};

}  // namespace thimble
