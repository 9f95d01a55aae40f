// Error feedback: what an update leaves out of the gradient is added to the next gradient.
// Ref: Robert et al. 2024, "LDAdam: adaptive optimization from low-dimensional gradient
// statistics", algorithm 1 (its generalised error feedback keeps the momentum that a new basis
// lacks too).
#pragma once

#include "optim/subspace.h"

namespace thimble {

/// State: an f32 per element. All functions take it as `error`, in storage layout.
class ErrorFeedback {
 public:
  static StateSlot state_slot(const ParamInfo& info);
  /// In the first round error <- error + gradient; every round takes that for the gradient:
  /// args.grad and args.grad_scale change.
  void add_to_gradient(UpdateArgs& args, const Tensor& error, bool first_round) const;
  /// error -= R P^T: what the update leaves out stays.
  void keep_rest(const Subspace& s, const Tensor& error, const Tensor& r) const;
  /// error += beta1 / (1 - beta1) (m before^T - turned now^T): the momentum that the basis `now`
  /// lacks of m in the basis `before`.
  struct Turn {
    const Tensor &before, &now;  // [s, r]
    const Tensor &m, &turned;    // [rows, r]
  };
  void keep_lost_momentum(const Subspace& s, const Tensor& error, const Turn& turn) const;
};

}  // namespace thimble
