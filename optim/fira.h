// Fira: GaLore, and what of the gradient lies outside of its subspace, scaled by row as Adam scales
// what lies inside.
// Ref: Chen et al. 2024, "Fira: can we achieve full-rank training of LLMs under low-rank
// constraint?", algorithm 1.
#pragma once

#include "optim/optimizer_entry.h"
#include "optim/second_round.h"

namespace thimble {

extern const OptimizerEntry kFiraEntry;

/// State: the norm of what was added last. Sums over slices: one number.
class Fira final : public SecondRound {
 public:
  /// max_growth: of the norm of what is added, from step to step.
  explicit Fira(double max_growth = 1.01) : max_growth_(max_growth) {}
  std::vector<StateSlot> state_slots(const GaloreOptions& options,
                                     const ParamInfo& info) const override;
  int num_sums() const override { return 1; }
  std::int64_t carry_bytes(const LowRankShape& shape) const override {
    return 4 * shape.rows * (2 * shape.rank + 1);
  }
  void measure(const Subspace& s, std::span<const Tensor> state, const Tensor& r,
               RoundSums& out) const override;
  void apply(const Subspace& s, std::span<const Tensor> state, const RoundSums& in) const override;

 private:
  double max_growth_;
};

}  // namespace thimble
