// GaLore: Adam in the subspace of the gradient's leading singular vectors; Fira adds what lies
// outside of it, scaled.
// Ref: Zhao et al. 2024, "GaLore: memory-efficient LLM training by gradient low-rank projection",
// algorithm 2; Chen et al. 2024, "Fira". The subspace is refreshed by block power iteration from
// the previous one, or exactly.
#pragma once

#include "optim/low_rank.h"

namespace thimble {

struct GaloreOptions {
  AdamOptions adam{.weight_decay = 0, .eps_mode = EpsMode::kHf, .decay_after = true};
  std::int64_t rank = 128;
  double scale = 0.25;            // of the update
  std::int64_t update_gap = 200;  // steps between refreshes
  bool exact = false;             // all eigenvectors of G^T G instead of power iteration
  bool stagger = true;            // matrices refresh at different steps
  bool rotate_moments = false;    // into the new basis (LDAdam's rule); published: left as they are
  /// Share of the momentum in what the subspace is found for (LDAdam's rho); 0: of the gradient
  /// alone.
  double momentum_share = 0;
  bool fira = false;
  double max_growth = 1.01;        // of the norm of what Fira adds
  DType projector = DType::kBF16;  // how P is kept
};

/// State: 2 r floats for each of the L long rows, P [s, r], with fira a norm. Sums over slices: at
/// a refresh s r numbers an iteration (exact: s s).
class Galore final : public Optimizer {
 public:
  explicit Galore(const GaloreOptions& options) : options_(options) {}
  OptimizerNeed needs(const ParamInfo& info) const override;
  std::vector<StateSlot> state_slots(const ParamInfo& info, Slice slice) const override;
  int rounds(const ParamInfo& info, std::int64_t step) const override;
  SumCount sums(const ParamInfo& info, std::int64_t step, int round) const override;
  std::int64_t carry_bytes(const ParamInfo& info, Slice slice, std::int64_t step) const override;
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;

  /// Whether the subspace changes before update number `step`.
  bool refreshes(const ParamInfo& info, std::int64_t step) const;

 private:
  int refresh_rounds(const ParamInfo& info, std::int64_t step) const;
  Tensor projector(const UpdateArgs& args) const { return args.state[projector_slot(args)]; }
  std::size_t projector_slot(const UpdateArgs& args) const;
  void iterate(int iteration, const UpdateArgs& args, const LowRankShape& shape,
               RoundSums& out) const;
  Tensor subject(const UpdateArgs& args, const LowRankShape& shape) const;
  void adopt(const UpdateArgs& args, const LowRankShape& shape, const RoundSums& in) const;
  void rotate(const UpdateArgs& args, const LowRankShape& shape, const Tensor& before) const;
  void update(const UpdateArgs& args, const LowRankShape& shape, RoundSums& out) const;
  void add_outside(const UpdateArgs& args, const LowRankShape& shape, const RoundSums& in) const;

  GaloreOptions options_;
};

}  // namespace thimble
