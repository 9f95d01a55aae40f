// AdamW with decoupled weight decay, fused into one pass over memory; with 8-bit state the AdamW of
// bitsandbytes.
// Ref: Loshchilov & Hutter 2019, algorithm 2; the two places of epsilon are those of PyTorch and of
// the older Hugging Face implementation. Dettmers et al. 2022 for 8 bits.
#pragma once

#include "optim/optimizer_entry.h"

namespace thimble {

extern const OptimizerEntry kAdamWEntry, kAdamW8BitEntry;

/// State: exp_avg and exp_avg_sq; 8 bytes per parameter in f32, 4 in bf16, 2.03 in 8 bits.
class AdamW final : public GpuOptimizer {
 public:
  explicit AdamW(const AdamOptions& options = {}) : options_(options) {}
  OptimizerNeed needs(const ParamInfo& info) const override;
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override;
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;

 private:
  AdamOptions options_;
};

}  // namespace thimble
