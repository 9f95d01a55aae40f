// SCALE: every matrix's gradient divided by the root mean square of each of its output rows (of an
// embedding: of each column), the head with momentum.
// Ref: Glentis et al. 2026, "A minimalist optimizer design for LLM pretraining", algorithm 1.
#pragma once

#include "optim/adam_options.h"

namespace thimble {

struct ScaleOptions {
  double momentum = 0.9;  // of the head
  double weight_decay = 0;
};

/// State: momentum of the head, 4 bytes an element; none otherwise. Sums over slices: for a matrix
/// whose output rows run along the short side, a number for each.
class Scale final : public Optimizer {
 public:
  explicit Scale(const ScaleOptions& options = {}) : options_(options) {}
  OptimizerNeed needs(const ParamInfo&) const override {
    return {.kind = OptimizerNeed::Kind::kLongSlice};
  }
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override;
  int rounds(const ParamInfo& info, std::int64_t step) const override;
  SumCount sums(const ParamInfo& info, std::int64_t step, int round) const override;
  bool runs_on_gpu(const ParamInfo&, std::int64_t) const override { return true; }
  StateAccess access(const ParamInfo& info, const StateSlot& slot, std::int64_t step,
                     int round) const override;
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;

 private:
  ScaleOptions options_;
};

}  // namespace thimble
