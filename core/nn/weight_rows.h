// This rank's own rows of the weights, beneath a store that shows whole weights only while they are
// pinned: they are in memory, or come from elsewhere when they are asked for. Knows no blocks, no
// pins and no other ranks.
#pragma once

#include <span>
#include <vector>

#include "core/base/completion.h"
#include "core/nn/resident_state.h"

namespace thimble {

/// The StateResidency of the entries that are in_weight_store().
class WeightRows : public StateResidency {
 public:
  /// Whole weights in storage layout, of which only this rank's rows are filled.
  struct Whole {
    std::vector<Tensor> tensors;
    Completion rows;  // of their filling; after what it fills, so that it ends first
  };
  /// Shows the rows of these parameters as they are now; nobody may change them until it is done.
  /// Throws what waiting for it would, where that is known already.
  virtual Whole start_show(std::span<const ParamId> ids) = 0;
  /// Whether start_show() leaves nothing to wait for.
  virtual bool are_at_hand() const = 0;
};

/// Rows that are in memory, always.
class ResidentWeightRows final : public ResidentRows<WeightRows> {
 public:
  ResidentWeightRows(Arena& arena, const StateTable& table, int rank);

  Whole start_show(std::span<const ParamId> ids) override;
  bool are_at_hand() const override { return true; }

 private:
  Tensor held(const StateEntry& entry) override {
    return held_.at(static_cast<std::size_t>(entry.param));
  }

  Arena& arena_;
  std::vector<Tensor> held_;  // by ParamId
};

}  // namespace thimble
