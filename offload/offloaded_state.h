// State that lies on disk and is in memory only while it is leased, or about to be: what is
// announced is read ahead as far as the window reaches, and what was changed is written behind
// while the next rows are worked on.
#pragma once

#include <deque>
#include <exception>
#include <list>

#include "core/nn/state_residency.h"
#include "offload/offload_home.h"
#include "offload/ring.h"
#include "offload/state_cache.h"

namespace thimble {

class OffloadedState final : public StateStore {
 public:
  explicit OffloadedState(std::shared_ptr<OffloadHome> home)
      : shared_home_(std::move(home)),
        home_(*shared_home_),
        ring_(home_.window_bytes()),
        cache_(home_) {}
  /// Waits for transfers under way; what was not committed is not kept.
  ~OffloadedState() override;

  void create(StateId id) override;
  void erase(StateId id) override;
  void announce(std::span<const StateUse> order) override;
  /// Throws SystemError if the window is too small for all that is leased at once.
  StateLease acquire(const StateUse& use) override;
  void release(const StateUse& use, const Tensor& tensor) noexcept override;
  void commit(std::int64_t step) override;
  /// A fourth of the window: one part is worked on, one comes, one goes, and the ring's ends fit
  /// together.
  std::int64_t window_bytes() const override { return home_.window_bytes() / 4; }
  /// So that leases are whole blocks of the disk.
  std::int64_t row_multiple(ParamId id) const override;

  /// What has been released of these bytes is what reading gives.
  void finish_writes(const KeyRange& range) { wait_for_writes(&range); }
  /// Whether an array stays in memory.
  bool is_cached(StateId id) const { return cache_.holds(id); }
  /// The bytes of a use of such an array, until it changes.
  const std::byte* cached(const StateUse& use) { return cache_.acquire(use); }

 private:
  enum class Phase : std::uint8_t { kComing, kLeased, kGoing };
  struct Buffer {
    StateUse use;
    KeyRange range;
    std::int64_t begin = 0;   // in the ring
    std::byte* at = nullptr;  // the first byte of the range
    Phase phase = Phase::kComing;
    Tensor lent;
    std::vector<Completion> io{};
  };
  using Buffers = std::list<Buffer>;

  StateLease lease_planned(const StateUse& use);
  StateLease lease_cached(const StateUse& use);
  void release_cached(const StateUse& use, const Tensor& tensor) noexcept;
  Buffers::iterator take_ahead(const StateUse& use);
  Buffers::iterator make_buffer(const StateUse& use, bool may_wait);
  Tensor lend(const Buffer& buffer);
  void read_ahead();
  void drop_ahead();
  bool is_free_of_writes(const StateUse& use) const;
  void wait_for_writes(const KeyRange* of);
  void free(Buffers::iterator buffer);
  void finish_write(Buffers::iterator buffer);
  void reap();
  void throw_failure() const;

  std::shared_ptr<OffloadHome> shared_home_;
  OffloadHome& home_;
  Ring ring_;
  StateCache cache_;
  std::deque<StateUse> order_;  // announced, not acquired yet
  std::size_t ahead_ = 0;       // of them, those that have a buffer
  Buffers buffers_;             // in the order in which they were made
  std::exception_ptr failure_;  // the first one of a write
};

}  // namespace thimble
