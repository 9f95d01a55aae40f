// Adam-mini: one second moment for each output row of a matrix, or for each head of queries and
// keys. Ref: Zhang et al. 2024, "Adam-mini: use fewer learning rates to gain more", algorithm 1.
#pragma once

#include "optim/adam_options.h"

namespace thimble {

/// State: exp_avg of each element, exp_avg_sq of each block; 4 bytes a parameter. Sums over slices:
/// a number for each output row that runs along the short side.
class AdamMini final : public Optimizer {
 public:
  explicit AdamMini(const AdamOptions& options) : options_(options) {}
  OptimizerNeed needs(const ParamInfo& info) const override;
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override;
  int rounds(const ParamInfo& info, std::int64_t step) const override;
  SumCount sums(const ParamInfo& info, std::int64_t step, int round) const override;
  StateAccess access(const ParamInfo& info, const StateSlot& slot, std::int64_t step,
                     int round) const override;
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;

 private:
  AdamOptions options_;
};

}  // namespace thimble
