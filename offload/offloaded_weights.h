// Weights that lie on disk beside the state, and are in memory only while they are shown: this
// rank's rows are read right into whole weights, ahead of their use. A bf16 weight beside a f32
// master is not on disk: it is rounded from the master's rows as they come.
#pragma once

#include <memory>
#include <vector>

#include "core/nn/weight_rows.h"
#include "offload/offloaded_state.h"

namespace thimble {

class OffloadedWeights final : public WeightRows {
 public:
  explicit OffloadedWeights(std::shared_ptr<OffloadHome> home);

  /// Through whose window updates change the rows; before anything else.
  void set_state(OffloadedState& state) { state_ = &state; }

  Whole start_show(std::span<const ParamId> ids) override;
  bool are_at_hand() const override { return false; }

  void announce(std::span<const StateUse> order) override { state_->announce(order); }
  StateLease acquire(const StateUse& use) override;
  /// Of what acquire() has not leased from the state: values that nobody keeps.
  void release(const StateUse&, const Tensor&) noexcept override {}
  /// The state's commit is that of the weights.
  void commit(std::int64_t) override {}

 private:
  struct RowsUnderWay;
  class ShownRows;
  const StateEntry& source_of(const StateEntry& weight) const;
  RowsUnderWay make_room(const StateEntry& weight, Tensor& whole) const;

  std::shared_ptr<OffloadHome> shared_home_;
  OffloadHome& home_;
  OffloadedState* state_ = nullptr;
};

}  // namespace thimble
