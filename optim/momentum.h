// Optimizers with one moment or none, element by element.
#pragma once

#include "optim/optimizer_entry.h"

namespace thimble {

extern const OptimizerEntry kSgdEntry, kLionEntry;

struct SgdOptions {
  double momentum = 0;
  double dampening = 0;
  bool nesterov = false;
  double weight_decay = 0;
  bool decay_all = false;
  StateFormat state = StateFormat::kF32;
};

/// m = momentum m + (1 - dampening) g (the first m is g); w -= lr m, with decoupled decay. Without
/// momentum no state. Ref: Sutskever et al. 2013, in PyTorch's form.
class Sgd final : public GpuOptimizer {
 public:
  explicit Sgd(const SgdOptions& options = {}) : options_(options) {}
  OptimizerNeed needs(const ParamInfo& info) const override;
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override;
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;

 private:
  SgdOptions options_;
};

/// w -= lr sign(beta1 m + (1 - beta1) g); m = beta2 m + (1 - beta2) g; 4 bytes per parameter in
/// f32. Ref: Chen et al. 2023, "Symbolic discovery of optimization algorithms", algorithm 2.
class Lion final : public GpuOptimizer {
 public:
  explicit Lion(const AdamOptions& options) : options_(options) {}
  OptimizerNeed needs(const ParamInfo& info) const override;
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override;
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;

 private:
  AdamOptions options_;
};

}  // namespace thimble
