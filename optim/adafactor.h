// Adafactor: the second moment of a matrix as the product of one of its rows and one of its
// columns. Ref: Shazeer & Stern 2018, "Adafactor: adaptive learning rates with sublinear memory
// cost", algorithm 4, with the relative step size of PyTorch's form.
#pragma once

#include "optim/optimizer_entry.h"

namespace thimble {

extern const OptimizerEntry kAdafactorEntry;

struct AdafactorOptions {
  double beta2_decay = -0.8;  // beta2 = 1 - step^beta2_decay
  double eps_weight = 1e-3;   // least root mean square of the weights that scales the step
  double max_rms = 1.0;       // of the update
  double weight_decay = 0;
};

/// State: a float per row and per column. Sums over slices: one number per column, and three.
class Adafactor final : public Optimizer, public MultiRoundUpdate {
 public:
  explicit Adafactor(const AdafactorOptions& options = {}) : options_(options) {}
  OptimizerNeed needs(const ParamInfo&) const override {
    return {.kind = OptimizerNeed::Kind::kLongSlice};
  }
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override;
  const MultiRoundUpdate* multi_round(const ParamInfo&) const override { return this; }
  int rounds(const ParamInfo&, std::int64_t) const override { return 3; }
  SumCount sums(const ParamInfo& info, std::int64_t step, int round) const override;
  std::int64_t carry_bytes(const ParamInfo&, Slice, std::int64_t) const override {
    return sizeof(double);
  }
  StateAccess access(const ParamInfo& info, const StateSlot& slot, std::int64_t step,
                     int round) const override;
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;

 private:
  AdafactorOptions options_;
};

}  // namespace thimble
