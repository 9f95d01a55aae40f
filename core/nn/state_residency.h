// Where state waits between its uses, and the only way to it. A use leases rows of an entry, in an
// order that is announced; the implementation may stream them from wherever they are, a few at a
// time, so that what is leased may be larger than memory as long as no single lease is.
#pragma once

#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "core/nn/state_table.h"

namespace thimble {

class StateResidency;

/// One use of state.
struct StateUse {
  StateId id{};
  Slice rows;  // of the parameter, among those that the rank holds; a shared slot is leased whole
  StateAccess access = StateAccess::kRead;
  bool on_cpu = false;     // in memory that the host works on; else on the device of the updates
  std::int64_t times = 1;  // on a planning arena: it stands for so many uses of as many rows each
  friend bool operator==(const StateUse&, const StateUse&) = default;
};

/// State in memory until released. Its tensor has the form slot.piece(rows).
class [[nodiscard]] StateLease {
 public:
  StateLease() = default;
  StateLease(StateResidency& home, const StateUse& use, Tensor tensor)
      : home_(&home), use_(use), tensor_(std::move(tensor)) {}
  StateLease(StateLease&& other) noexcept
      : home_(std::exchange(other.home_, nullptr)),
        use_(other.use_),
        tensor_(std::move(other.tensor_)) {}
  StateLease(const StateLease&) = delete;
  StateLease& operator=(const StateLease&) = delete;
  StateLease& operator=(StateLease&&) = delete;
  ~StateLease();

  const Tensor& tensor() const { return tensor_; }

 private:
  StateResidency* home_ = nullptr;
  StateUse use_;
  Tensor tensor_;
};

class StateResidency {
 public:
  virtual ~StateResidency() = default;
  /// The order of the next uses, as far as it is known; replaces what was announced before. A hint:
  /// what is acquired otherwise comes too, only later.
  virtual void announce(std::span<const StateUse> order) = 0;
  /// Throws SystemError if the bytes cannot be brought, or an earlier release could not keep them.
  virtual StateLease acquire(const StateUse& use) = 0;
  /// Called by the lease's destructor. What was written (by the access of the use) is kept. Must
  /// not throw: errors surface at the next acquire or at commit.
  virtual void release(const StateUse& use, const Tensor& tensor) noexcept = 0;
  /// Once a step, at its end, and after loading: everything released so far belongs to `step`.
  /// Throws SystemError if not all of it could be kept.
  virtual void commit(std::int64_t step) = 0;
  /// Bytes of state that should be leased at once where rows can be cut; 0: any number.
  virtual std::int64_t window_bytes() const { return 0; }
  /// Of a parameter, leases of some rows best begin at multiples of this.
  virtual std::int64_t row_multiple(ParamId) const { return 1; }
  /// Whether leases are memory of the host that keeps its address and contents until another use
  /// writes there, or the entry begins anew: it may then be read after its lease.
  virtual bool lends_in_place() const { return false; }
};

/// Hears of every use that is about to change state, before it does; on the thread of the updates.
class StateWatcher {
 public:
  virtual ~StateWatcher() = default;
  /// Rows of an entry are about to be written.
  virtual void before_write(const StateUse& use) = 0;
  /// Entries are about to begin and end.
  virtual void before_change() = 0;
};

/// A residency of its own accord: entries begin and end.
class StateStore : public StateResidency {
 public:
  /// What the rank holds of the entry is kept from now on, all zero, whatever it was before.
  virtual void create(StateId id) = 0;
  /// The entry is there; it is no longer.
  virtual void erase(StateId id) = 0;
};

inline StateLease::~StateLease() {
  if (home_ != nullptr) home_->release(use_, tensor_);
}

/// What is kept at `step`, all zero; weights and their scales are the weight store's.
void create_state(StateStore& store, const StateTable& table, std::int64_t step);
/// Keeps what is kept at step `to` instead of at `from`: what begins anew is zero. What ends makes
/// room before anything begins.
void change_state(StateStore& store, const StateTable& table, std::int64_t from, std::int64_t to);

/// Weights and their scales from one residency, all else from another.
class JoinedState final : public StateResidency {
 public:
  /// one_order: the others' residency is told of the uses of weights too, for it keeps them.
  JoinedState(const StateTable& table, StateResidency& weights, StateResidency& others,
              bool one_order = false)
      : table_(table), weights_(weights), others_(others), one_order_(one_order) {}
  void announce(std::span<const StateUse> order) override;
  StateLease acquire(const StateUse& use) override {
    if (watcher_ != nullptr && use.access > StateAccess::kRead) watcher_->before_write(use);
    return home_of(use.id).acquire(use);
  }
  void release(const StateUse& use, const Tensor& tensor) noexcept override {
    home_of(use.id).release(use, tensor);
  }
  void commit(std::int64_t step) override;
  std::int64_t window_bytes() const override;
  std::int64_t row_multiple(ParamId id) const override {
    return std::lcm(weights_.row_multiple(id), others_.row_multiple(id));
  }
  bool lends_in_place() const override {
    return weights_.lends_in_place() && others_.lends_in_place();
  }
  /// Null: none. It must outlive this, or be taken back.
  void set_watcher(StateWatcher* watcher) { watcher_ = watcher; }
  StateWatcher* watcher() const { return watcher_; }

 private:
  StateResidency& home_of(StateId id) const {
    return table_[id].in_weight_store() ? weights_ : others_;
  }
  const StateTable& table_;
  StateResidency& weights_;
  StateResidency& others_;
  bool one_order_;
  StateWatcher* watcher_ = nullptr;
};

/// Bytes that are moved at once where nothing else limits them: while saving and loading.
inline constexpr std::int64_t kStatePieceBytes = std::int64_t{16} << 20;
/// The same where the residency may have less room.
std::int64_t piece_bytes(const StateResidency& state);

/// A use in pieces of about `bytes` that begin at whole granules, at least one granule each; none
/// of no rows, one of a shared slot.
std::vector<StateUse> in_pieces(const StateTable& table, const StateUse& use, std::int64_t bytes);

/// The most rows, a multiple of `granule`, of which `bytes` hold the state if `rows` of them take
/// `all_bytes`; at least one granule.
std::int64_t rows_within(std::int64_t bytes, std::int64_t rows, std::int64_t all_bytes,
                         std::int64_t granule);

}  // namespace thimble
