// Adam-mini: one second moment per output row of a matrix, or per head of queries and keys. Ref:
// Zhang et al. 2024, "Adam-mini: use fewer learning rates to gain more", algorithm 1.
#pragma once

#include "optim/optimizer_entry.h"

namespace thimble {

extern const OptimizerEntry kAdamMiniEntry;

/// State: exp_avg per element, exp_avg_sq per block; 4 bytes per parameter. Sums over slices: one
/// number per output row, if output rows run along the short side.
class AdamMini final : public Optimizer, public MultiRoundUpdate {
 public:
  explicit AdamMini(const AdamOptions& options) : options_(options) {}
  OptimizerNeed needs(const ParamInfo& info) const override;
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override;
  const MultiRoundUpdate* multi_round(const ParamInfo&) const override { return this; }
  int rounds(const ParamInfo& info, std::int64_t step) const override;
  SumCount sums(const ParamInfo& info, std::int64_t step, int round) const override;
  StateAccess access(const ParamInfo& info, const StateSlot& slot, std::int64_t step,
                     int round) const override;
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;

 private:
  AdamOptions options_;
};

}  // namespace thimble
