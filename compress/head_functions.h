// The differentiable functions that retaining heads are made of, on a CPU: inputs side by side, an
// activation, and the loss of predicted scores. Letters: N positions of all sequences, Hkv
// key-value heads.
#pragma once

#include <span>

#include "compress/compressor_config.h"
#include "core/nn/functional.h"

namespace thimble {

/// Matrices of N rows each, of one dtype, side by side: [N, sum of their columns] (tag
/// `tag`). They need no gradient.
Tensor join_columns(Arena& arena, MemoryTag tag, std::span<const Tensor> parts);

/// out = act(x), element by element; f32 or bf16, computed in f32. out may be x.
void activate(const Tensor& out, const Tensor& x, HeadActivation activation);
/// The same on the tape.
Var activate(Context& ctx, const Var& x, HeadActivation activation);

/// What predicted scores are compared with.
struct ScoreLoss {
  Tensor labels;         // f32 [N, Hkv]; means nothing where a weight is 0
  Tensor weights;        // f32 [N], 0: the position has no label
  Tensor segment_start;  // i32 [N]
  std::int64_t sequences = 1;
  float regression = 1;  // factor of the smooth L1 distance of each head, beta = 1
  float smoothness = 0;  // of the squared difference to the position before, where both have labels
  float grad_scale = 1;  // of the weighted losses
};

/// Adds the loss of each position, summed over heads, to losses f32 [N]; positions without a label
/// have none. Under a recording tape the gradient of `scores` [N, Hkv] is recorded; where a block
/// is computed again, losses are left as they are.
/// Ref: Huang et al. 2024, "Locret", section 3.2: smooth L1 and the L2 of neighbours.
void add_score_loss(Context& ctx, const Var& scores, const ScoreLoss& in, const Tensor& losses);

}  // namespace thimble
