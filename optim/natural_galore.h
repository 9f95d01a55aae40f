// Natural GaLore: the projected gradient is preconditioned with the inverse of an empirical Fisher
// matrix of the last projected gradients, before Adam's step.
// Ref: Das et al. 2024, "Natural GaLore: accelerating GaLore for memory-efficient LLM training and
// fine-tuning", equation 8.
#pragma once

#include "optim/optimizer_entry.h"
#include "optim/second_round.h"

namespace thimble {

extern const OptimizerEntry kNaturalGaloreEntry;

/// State: `history` projected gradients, and their products with each other. Sums over slices: as
/// many numbers.
class NaturalGradient final : public SecondRound {
 public:
  /// history: gradients that precondition, 2 or more; damping: F = damping I + the sum of their
  /// outer products.
  explicit NaturalGradient(std::int64_t history = 20, double damping = 1e-3)
      : history_(history), damping_(damping) {}
  std::vector<StateSlot> state_slots(const GaloreOptions& options,
                                     const ParamInfo& info) const override;
  int num_sums() const override { return static_cast<int>(history_); }
  std::int64_t carry_bytes(const LowRankShape& shape) const override {
    return 4 * shape.rows * shape.rank;
  }
  void measure(const Subspace& s, std::span<const Tensor> state, const Tensor& r,
               RoundSums& out) const override;
  void apply(const Subspace& s, std::span<const Tensor> state, const RoundSums& in) const override;

 private:
  struct Ring;
  Ring ring(std::span<const Tensor> state) const;
  Tensor preconditioned(const Subspace& s, std::span<const Tensor> state,
                        const RoundSums& in) const;

  std::int64_t history_;
  double damping_;
};

}  // namespace thimble
