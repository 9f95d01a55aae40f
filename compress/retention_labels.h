// What the positions of a prompt were worth to its answer, known once the answer is there: what
// retaining heads learn to predict.
#pragma once

#include "core/nn/batch.h"
#include "core/tensor/tensor.h"

namespace thimble {

/// Marks the positions of answers in batch.targets (1; else 0), and gives those a loss weight that
/// have a label: all that an answer of the same document follows and that are no answer themselves.
/// An answer's positions are those of the tokens that the data trains on, or with `answer_tokens`
/// > 0 the last so many of every document in a sequence, but never its first token.
void mark_answers(Batch& batch, std::int64_t answer_tokens);

/// One layer's pass over N positions: Q heads of D channels, grouped by Hkv.
struct LabelInputs {
  Tensor q, k;           // [N, H*D] and [N, Hkv*D], both after RoPE
  Tensor is_answer;      // i32 [N], of mark_answers()
  Tensor segment_start;  // i32 [N]
  std::int64_t sequences = 1, kv_heads = 1, head_dim = 1;
  float scale = 1;  // of the products of queries and keys
};

/// f32 [N, Hkv] (tag activations): the largest product that a key has with a query of the answers
/// behind it, before the softmax, over the queries of a group; -infinity without an answer.
/// Workspace: 64 rows of products. Ref: Huang et al. 2024, "Locret", eq. 2, with the scale
/// 1 / sqrt(D) that its authors' code has.
Tensor retention_labels(Arena& arena, const LabelInputs& in);

}  // namespace thimble
