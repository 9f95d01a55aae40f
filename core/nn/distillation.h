// The loss of a student whose teacher has the same LM head, in chunks of rows: neither's logits
// outlive their chunk. On a CPU.
#pragma once

#include "core/nn/functional.h"

namespace thimble {

struct DistillInputs {
  Tensor targets;           // i32 [N]
  Tensor weights;           // f32 [N]; 0: the position has no loss
  Tensor teacher;           // [N, C]: its input of the LM head, in the dtype of the student's
  float teacher_share = 0;  // of the loss; the rest is the targets'
  float grad_scale = 1;     // of the weighted losses
};

/// x [N, C] -> losses f32 [N], unweighted: share * KL(teacher || student) + (1 - share) * the
/// cross-entropy of the targets, in nats; 0 where the weight is. Under a tape the gradient of x is
/// computed at once. The LM head is frozen. Ref: Hinton et al. 2015, at temperature 1.
Tensor distilled_loss(Context& ctx, const Var& x, Weight head, const DistillInputs& inputs);

}  // namespace thimble
