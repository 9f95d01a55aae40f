#include "optim/error_feedback.h"

#include "core/ops/ops.h"

namespace thimble {

StateSlot ErrorFeedback::state_slot(const ParamInfo& info) {
  return element_slot("error", DType::kF32, info);
}

void ErrorFeedback::add_to_gradient(UpdateArgs& args, const Tensor& error, bool first_round) const {
  if (first_round) mix(error, args.grad, 1, args.grad_scale);
  args.grad = error;
  args.grad_scale = 1;
}

void ErrorFeedback::keep_rest(const Subspace& s, const Tensor& error, const Tensor& r) const {
  const Tensor negative = s.workspace(r.shape(), "negative projected gradient");
  if (s.shape().rows == 0) return;
  mix(negative, r, 0, -1);
  ops::matmul(*s.args().arena, {negative}, {s.basis(DType::kF32), true}, error,
              {.accumulate = true});
}

void ErrorFeedback::keep_lost_momentum(const Subspace& s, const Tensor& error,
                                       const Turn& turn) const {
  const double beta1 = s.options().adam.beta1, weight = beta1 / (1 - beta1);
  const Tensor signed_momentum = s.workspace(turn.turned.shape(), "lost momentum");
  const auto add = [&](const Tensor& momentum, const Tensor& p, double sign) {
    mix(signed_momentum, momentum, 0, sign * weight);
    ops::matmul(*s.args().arena, {signed_momentum}, {p, true}, error, {.accumulate = true});
  };
  add(turn.m, turn.before, 1);
  add(turn.turned, turn.now, -1);
}

}  // namespace thimble
