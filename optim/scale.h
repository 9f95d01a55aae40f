// SCALE: every matrix's gradient divided by the root mean square of each of its output rows (of an
// embedding: of each column), the LM head with momentum.
// Ref: Glentis et al. 2026, "A minimalist optimizer design for LLM pretraining", algorithm 1.
#pragma once

#include "optim/optimizer_entry.h"

namespace thimble {

extern const OptimizerEntry kScaleEntry;

struct ScaleOptions {
  double momentum = 0.9;  // of the head
  double weight_decay = 0;
};

/// State: momentum of the LM head, 4 bytes per element; none otherwise. Sums over slices: one
/// number per output row, for a matrix whose output rows run along the short side.
class Scale final : public GpuOptimizer, public MultiRoundUpdate {
 public:
  explicit Scale(const ScaleOptions& options = {}) : options_(options) {}
  OptimizerNeed needs(const ParamInfo&) const override {
    return {.kind = OptimizerNeed::Kind::kLongSlice};
  }
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override;
  const MultiRoundUpdate* multi_round(const ParamInfo&) const override { return this; }
  int rounds(const ParamInfo& info, std::int64_t step) const override;
  SumCount sums(const ParamInfo& info, std::int64_t step, int round) const override;
  StateAccess access(const ParamInfo& info, const StateSlot& slot, std::int64_t step,
                     int round) const override;
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;

 private:
  ScaleOptions options_;
};

}  // namespace thimble
