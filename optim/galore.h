// Adam in a subspace of the gradient that follows its leading singular vectors: GaLore, and what is
// built on it: Fira adds what lies outside of the subspace, Natural GaLore preconditions with the
// last gradients, LDAdam turns its moments into a subspace that changes every step.
// Ref: Zhao et al. 2024, "GaLore: memory-efficient LLM training by gradient low-rank projection",
// algorithm 2; Chen et al. 2024, "Fira"; Das et al. 2024, "Natural GaLore"; Robert et al. 2024,
// "LDAdam", algorithm 1. The subspace is refreshed by block power iteration from the previous one,
// or exactly.
#pragma once

#include <algorithm>

#include "optim/projector.h"

namespace thimble {

struct GaloreOptions {
  AdamOptions adam{.weight_decay = 0, .eps_mode = EpsMode::kHf, .decay_after = true};
  std::int64_t rank = 128;
  double scale = 0.25;            // of the update
  std::int64_t update_gap = 200;  // steps between refreshes
  bool exact = false;             // all eigenvectors of G^T G instead of power iteration
  bool stagger = true;            // matrices refresh at different steps
  /// A subspace that has hardly moved over five refreshes is refreshed half as often (Q-GaLore).
  bool lazy = false;
  ProjectorFormat projector = ProjectorFormat::kBF16;
  /// Between refreshes the update takes G P, which can be added up and sent in its stead.
  bool project_gradients = false;

  bool rotate_moments = false;  // into the new basis (LDAdam's rule); published: left as they are
  /// Share of the momentum in what the subspace is found for (LDAdam's rho); 0: of the gradient
  /// alone.
  double momentum_share = 0;
  /// What an update leaves out is added to the next gradient (LDAdam): a f32 an element is kept.
  bool error_feedback = false;

  bool fira = false;
  double max_growth = 1.01;  // of the norm of what Fira adds

  std::int64_t history = 0;  // gradients that precondition, 2 or more (Natural GaLore: 20)
  double damping = 1e-3;     // F = damping I + sum of their outer products
};

/// State: 2 r floats for each of the L long rows and P [s, r]; with fira a norm, with history as
/// many times r floats a long row, with error feedback s floats a long row. Sums over slices: at a
/// refresh s r numbers an iteration (exact: s s), with fira one, with history as many.
class Galore final : public Optimizer {
 public:
  explicit Galore(const GaloreOptions& options) : options_(options) {}
  OptimizerNeed needs(const ParamInfo& info) const override;
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override;
  int rounds(const ParamInfo& info, std::int64_t step) const override;
  SumCount sums(const ParamInfo& info, std::int64_t step, int round) const override;
  std::int64_t carry_bytes(const ParamInfo& info, Slice slice, std::int64_t step) const override;
  /// Steps that leave the subspace as it is; refreshes decompose small matrices on the host.
  bool runs_on_gpu(const ParamInfo& info, std::int64_t step) const override;
  StateAccess access(const ParamInfo& info, const StateSlot& slot, std::int64_t step,
                     int round) const override;
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;
  bool varies() const override { return options_.project_gradients; }
  std::int64_t projected_width(const ParamInfo& info, std::int64_t step) const override;
  void project_gradient(const UpdateArgs& args, const Tensor& out) const override;
  StateAccess projector_access(const ParamInfo&, std::int64_t step) const override {
    return step == 1 ? StateAccess::kChange : StateAccess::kRead;  // a first basis is made
  }

  /// Whether the subspace may change before update number `step`.
  bool refreshes(const ParamInfo& info, std::int64_t step) const;

 private:
  // What args.state holds.
  struct State {
    std::span<const Tensor> moments, projector;
    Tensor norm, refreshes, history, gram, error;  // those that are kept
  };
  State state(const UpdateArgs& args) const;
  // The last gradients, in a ring, and their products. Numbers of what is there, not of steps, so
  // that a step that was skipped leaves no hole.
  struct History {
    enum Number : std::uint8_t { kCount, kNext };
    Tensor gradients;
    float *products, *numbers;
    // Gradients once the next is in.
    std::int64_t count_with_next(std::int64_t h) const {
      return std::min(h, static_cast<std::int64_t>(numbers[kCount]) + 1);
    }
    // Of the next one, k = 0, and those before it.
    std::int64_t place(std::int64_t k, std::int64_t h) const {
      return (static_cast<std::int64_t>(numbers[kNext]) + h - k) % h;
    }
    float& product(std::int64_t a, std::int64_t b, std::int64_t h) const {
      return products[a * h + b];
    }
  };
  History history(const UpdateArgs& args) const;
  LowRankShape shape_of(const UpdateArgs& args) const {
    return low_rank_shape(args.info, args.slice, options_.rank);
  }
  Tensor basis(const UpdateArgs& args, DType dtype) const;
  bool projects(const ParamInfo& info) const;
  std::int64_t first_refresh(const ParamInfo& info) const;
  int refresh_rounds(const ParamInfo& info, std::int64_t step) const;
  int update_rounds() const { return options_.fira || options_.history > 0 ? 2 : 1; }

  // galore_refresh.cpp
  void start_basis(const UpdateArgs& args, std::span<const Tensor> projector) const;
  void iterate(int iteration, const UpdateArgs& args, RoundSums& out) const;
  Tensor subject(const UpdateArgs& args) const;
  Tensor adopt(const UpdateArgs& args, const RoundSums& in) const;
  void rotate(const UpdateArgs& args, const Tensor& before) const;
  void keep_lost_momentum(const UpdateArgs& args, const Tensor& before, const Tensor& now,
                          const Tensor& turned) const;
  bool is_due(const UpdateArgs& args) const;
  void learn_interval(const UpdateArgs& args, const Tensor& before, const Tensor& next) const;

  // galore_update.cpp
  void add_error(UpdateArgs& args, bool first) const;
  void keep_error(const UpdateArgs& args, const Tensor& r) const;
  Tensor projected(const UpdateArgs& args) const;
  void remember(const UpdateArgs& args, RoundSums& out) const;
  void precondition(const UpdateArgs& args, const RoundSums& in, RoundSums& out) const;
  void update(const UpdateArgs& args, const Tensor& r, double grad_scale, RoundSums& out) const;
  void measure_outside(const UpdateArgs& args, const Tensor& r, const Tensor& direction,
                       RoundSums& out) const;
  void add_outside(const UpdateArgs& args, const RoundSums& in) const;
  void step_along(const UpdateArgs& args, const Tensor& direction, const WeightDecay& decay) const;

  GaloreOptions options_;
};

}  // namespace thimble
