// Where state waits between its uses. A pass acquires it in an announced order; the implementation
// may stream it from wherever it is, a few entries at a time.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "core/nn/state_table.h"

namespace thimble {

class StateResidency;

/// State in memory until released.
class [[nodiscard]] StateLease {
 public:
  StateLease(StateResidency& home, StateId id, Tensor tensor)
      : home_(&home), id_(id), tensor_(std::move(tensor)) {}
  StateLease(StateLease&& other) noexcept
      : home_(std::exchange(other.home_, nullptr)),
        id_(other.id_),
        tensor_(std::move(other.tensor_)) {}
  StateLease(const StateLease&) = delete;
  StateLease& operator=(const StateLease&) = delete;
  StateLease& operator=(StateLease&&) = delete;
  ~StateLease();

  const Tensor& tensor() const { return tensor_; }
  /// The contents have changed and must be kept.
  void mark_dirty() { dirty_ = true; }

 private:
  StateResidency* home_;
  StateId id_;
  Tensor tensor_;
  bool dirty_ = false;
};

class StateResidency {
 public:
  virtual ~StateResidency() = default;
  /// Announces the entries of a pass in the order in which they will be acquired.
  virtual void begin_pass(std::span<const StateId> order) = 0;
  virtual StateLease acquire(StateId id) = 0;
  /// Called by the lease's destructor; must not throw, errors surface at the next acquire or at
  /// commit.
  virtual void release(StateId id, bool dirty) noexcept = 0;
  /// The pass is over: everything released dirty belongs to `step`.
  virtual void commit(std::int64_t step) = 0;
};

inline StateLease::~StateLease() {
  if (home_ != nullptr) home_->release(id_, dirty_);
}

/// The state of one rank in memory, always.
class ResidentState final : public StateResidency {
 public:
  ResidentState(Arena& arena, const StateTable& table, int rank)
      : arena_(arena), table_(table), rank_(rank), tensors_(table.entries().size()) {}
  /// Creates what the rank holds at that step, filled with zeros.
  void create_all(std::int64_t step);
  /// Holds what is kept at step `to` instead of at `from`: what begins anew is zero. What ends makes
  /// room before anything begins.
  void change_step(std::int64_t from, std::int64_t to);
  /// The tensor itself, for loading and saving. Throws LogicError if it is not kept.
  const Tensor& at(StateId id) const;

  void begin_pass(std::span<const StateId>) override {}
  StateLease acquire(StateId id) override { return {*this, id, at(id)}; }
  void release(StateId, bool) noexcept override {}
  void commit(std::int64_t) override {}

 private:
  void create(const StateEntry& entry);

  Arena& arena_;
  const StateTable& table_;
  int rank_;
  std::vector<Tensor> tensors_;  // by StateId
};

}  // namespace thimble
