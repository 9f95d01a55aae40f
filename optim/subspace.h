// One slice's round of an update within a low-rank subspace of its gradient: what GaLore and all
// that is built on it share. W [L, s] is stored along its long side; P [s, r] is the orthonormal
// basis of the subspace; R = G P is the projected gradient; Adam runs on R.
#pragma once

#include "optim/projector.h"

namespace thimble {

struct GaloreOptions {
  AdamOptions adam{.weight_decay = 0, .eps_mode = EpsMode::kHf, .decay_after = true};
  std::int64_t rank = 128;
  double scale = 0.25;            // multiplies the update
  std::int64_t update_gap = 200;  // steps between refreshes of the subspace
  bool exact = false;             // all eigenvectors of G^T G instead of power iteration
  bool stagger = true;            // matrices refresh at different steps
  ProjectorFormat projector = ProjectorFormat::kBF16;
  /// Between refreshes the update takes G P, which is accumulated and reduced instead of G.
  bool project_gradients = false;
};

class Subspace {
 public:
  /// args and options must outlive it. refreshed: this step has found a new basis.
  Subspace(const GaloreOptions& options, const UpdateArgs& args, bool refreshed);

  /// Moments of R, and the projector; they come first in args.state.
  static std::vector<StateSlot> state_slots(const GaloreOptions& options, const ParamInfo& info);

  const UpdateArgs& args() const { return args_; }
  const GaloreOptions& options() const { return options_; }
  const LowRankShape& shape() const { return shape_; }
  bool refreshed() const { return refreshed_; }
  bool planning() const { return args_.grad.device().planning; }

  /// Slots of Adam's two moments, [rows, rank] each: m and v in f32.
  std::span<const Tensor> moments() const { return moments_; }
  std::span<const Tensor> projector() const { return projector_; }
  /// What follows in args.state.
  std::span<const Tensor> other_state() const { return other_; }

  /// P [s, r] in `dtype`, in the arena's workspace.
  Tensor basis(DType dtype) const;
  /// R = G P, f32 [rows, rank]; or the projected gradient that was accumulated instead of G.
  Tensor projected_gradient() const;
  /// Adam's direction for R times grad_scale, f32 [rows, rank]; the moments advance.
  Tensor adam_direction_of(const Tensor& r, double grad_scale) const;
  /// w -= lr scale D P^T for a direction D [rows, rank].
  void step_along(const Tensor& direction, const WeightDecay& decay) const;
  WeightDecay decay() const { return weight_decay(options_.adam, args_.info, args_.lr); }

  Tensor workspace(const Shape& shape, const char* what, DType dtype = DType::kF32) const {
    return thimble::workspace(args_, shape, what, dtype);
  }

 private:
  const GaloreOptions& options_;
  const UpdateArgs& args_;
  LowRankShape shape_;
  bool refreshed_;
  std::span<const Tensor> moments_, projector_, other_;
};

}  // namespace thimble
