// Gradient clipping: the factor that keeps the norm of gradients below training.max_grad_norm.
// Which norm that is, and when it is known, is the ClipMode (clip_mode.h): of the whole step, of
// the step before, or of each tensor.
#pragma once

namespace thimble {

/// The factor, at most 1, that clips gradients of this norm: max_norm / (norm + 1e-6), as in
/// torch.nn.utils.clip_grad_norm_. max_norm 0: no clipping.
double clip_factor(double max_norm, double norm);

}  // namespace thimble
