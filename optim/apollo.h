// APOLLO and APOLLO-Mini: Adam's step is used only to scale the raw gradient, by rows of the long
// side or as a whole, and is estimated in a random subspace.
// Ref: Zhu et al. 2025, "APOLLO: SGD-like memory, AdamW-level performance", algorithm 1.
#pragma once

#include <functional>

#include "optim/low_rank.h"
#include "optim/optimizer_entry.h"

namespace thimble {

extern const OptimizerEntry kApolloEntry, kApolloMiniEntry, kQApolloEntry, kQApolloMiniEntry;

struct ApolloOptions {
  AdamOptions adam{.eps = 1e-6, .weight_decay = 0, .eps_mode = EpsMode::kHf, .decay_after = true};
  std::int64_t rank = 256;
  bool per_tensor = false;        // Mini: one scale for the whole matrix; rank 1
  double scale = 1;               // the update is multiplied by its square root; Mini: 128
  std::int64_t update_gap = 200;  // steps between new projections
  double max_growth = 1.01;       // of the update's norm from step to step
  bool reset_moments = false;     // at a new projection; the published form keeps them
  /// For a given projection [s, r] instead of a random one.
  std::function<Tensor(const UpdateArgs&, const LowRankShape&, std::int64_t refresh)> projection;
};

/// State: 2 r floats per long row, and the norm of the last update. The projection is made anew at
/// each step. Sums over slices: one or three numbers per matrix and step.
class Apollo final : public GpuOptimizer, public MultiRoundUpdate {
 public:
  explicit Apollo(const ApolloOptions& options) : options_(options) {}
  OptimizerNeed needs(const ParamInfo& info) const override;
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override;
  const MultiRoundUpdate* multi_round(const ParamInfo&) const override { return this; }
  int rounds(const ParamInfo&, std::int64_t) const override { return 2; }
  SumCount sums(const ParamInfo& info, std::int64_t step, int round) const override;
  std::int64_t carry_bytes(const ParamInfo& info, Slice slice, std::int64_t step) const override;
  StateAccess access(const ParamInfo& info, const StateSlot& slot, std::int64_t step,
                     int round) const override;
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;

 private:
  std::int64_t rank() const { return options_.per_tensor ? 1 : options_.rank; }
  void measure(const UpdateArgs& args, RoundSums& out) const;
  void apply(const UpdateArgs& args, const RoundSums& in) const;

  ApolloOptions options_;
};

}  // namespace thimble
