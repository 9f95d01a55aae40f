// Where optimizer state waits between its uses. A pass acquires keys in an announced order; the
// implementation may stream them from wherever they are, a few at a time.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "core/nn/param.h"

namespace thimble {

/// State `slot` ("master", "exp_avg", ...) of a parameter.
struct StateKey {
  ParamId param = ParamId::kNone;
  std::string slot;
  friend auto operator<=>(const StateKey&, const StateKey&) = default;
};

class StateResidency;

/// State in memory until released.
class [[nodiscard]] StateLease {
 public:
  StateLease(StateResidency& home, StateKey key, Tensor tensor)
      : home_(&home), key_(std::move(key)), tensor_(std::move(tensor)) {}
  StateLease(StateLease&& other) noexcept
      : home_(std::exchange(other.home_, nullptr)),
        key_(std::move(other.key_)),
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
  StateKey key_;
  Tensor tensor_;
  bool dirty_ = false;
};

class StateResidency {
 public:
  virtual ~StateResidency() = default;
  /// Announces the keys of a pass in the order in which they will be acquired.
  virtual void begin_pass(std::span<const StateKey> order) = 0;
  virtual StateLease acquire(const StateKey& key) = 0;
  /// Called by the lease's destructor; must not throw, errors surface at the next acquire or at
  /// commit.
  virtual void release(const StateKey& key, bool dirty) noexcept = 0;
  /// The pass is over: everything released dirty belongs to `step`.
  virtual void commit(std::int64_t step) = 0;
};

inline StateLease::~StateLease() {
  if (home_ != nullptr) home_->release(key_, dirty_);
}

/// All state in memory, always.
class ResidentState final : public StateResidency {
 public:
  explicit ResidentState(Arena& arena) : arena_(arena) {}
  /// Creates state filled with zeros.
  void create(const StateKey& key, MemoryTag tag, DType dtype, const Shape& shape);
  void erase(const StateKey& key) { tensors_.erase(key); }
  /// The tensor itself, for loading and saving.
  const Tensor& at(const StateKey& key) const;
  const std::map<StateKey, Tensor>& all() const { return tensors_; }

  void begin_pass(std::span<const StateKey>) override {}
  StateLease acquire(const StateKey& key) override { return {*this, key, at(key)}; }
  void release(const StateKey&, bool) noexcept override {}
  void commit(std::int64_t) override {}

 private:
  Arena& arena_;
  std::map<StateKey, Tensor> tensors_;
};

}  // namespace thimble
