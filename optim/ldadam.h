// LDAdam: Adam in a subspace that changes at every step. The subspace is found for gradient and
// momentum together, Adam's moments are rotated into the new basis, and what an update leaves out
// is kept (error_feedback.h).
// Ref: Robert et al. 2024, "LDAdam: adaptive optimization from low-dimensional gradient
// statistics", algorithm 1.
#pragma once

#include "optim/error_feedback.h"
#include "optim/optimizer_entry.h"

namespace thimble {

extern const OptimizerEntry kLdadamEntry;

/// Adam's moments follow the subspace; as published, GaLore leaves them as they are. Needs f32
/// moments; with others nothing is rotated. No state of its own.
class MomentRotation {
 public:
  /// momentum_share: of the momentum in what the subspace is found for (rho in the paper); 0: the
  /// gradient alone.
  explicit MomentRotation(double momentum_share = 0) : momentum_share_(momentum_share) {}
  /// What the next subspace is found for, [rows, s] in the gradient's dtype.
  Tensor subject(const Subspace& s) const;
  /// m <- m C, v <- c2 |(v / c2 - (m / c1)^2) (C o C) + (m C / c1)^2| with C = before^T P and the
  /// bias corrections of the last step. before f32 [s, r]: the last basis. error: defined with
  /// error feedback, it keeps the momentum that the new basis lacks.
  void rotate(const Subspace& s, const Tensor& before, const Tensor& error) const;

 private:
  double momentum_share_;
};

}  // namespace thimble
