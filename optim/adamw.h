// AdamW with decoupled weight decay, fused into one pass over memory.
// Ref: Loshchilov & Hutter 2019, algorithm 2; the two places of epsilon are those of PyTorch and of
// the older Hugging Face implementation.
#pragma once

#include "core/nn/optimizer.h"

namespace thimble {

enum class EpsMode : std::uint8_t {
  kTorch,  // m / c1 / (sqrt(v / c2) + eps)
  kHf,     // sqrt(c2) / c1 * m / (sqrt(v) + eps)
};

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  EpsMode eps_mode = EpsMode::kTorch;
  bool decay_after = false;  // decay the updated instead of the old weight
  bool decay_all = false;    // norms and biases too, as PyTorch does unless told otherwise
};

/// State: exp_avg and exp_avg_sq, f32, 8 bytes per parameter.
class AdamW final : public Optimizer {
 public:
  explicit AdamW(const AdamWOptions& options) : options_(options) {}
  OptimizerNeed needs(const ParamInfo&) const override { return {}; }
  std::vector<StateSlot> state_slots(const ParamInfo& info, Slice slice) const override;
  void round(int i, const UpdateArgs& args, std::span<const float> sums_in,
             std::span<float> sums_out) const override;

 private:
  AdamWOptions options_;
};

}  // namespace thimble
