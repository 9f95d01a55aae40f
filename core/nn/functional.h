// The differentiable operations models are written in. Each runs its kernel and, under a recording
// tape, adds the node that runs it backwards. A node keeps a parameter's id, never its bytes, and
// pins the block again.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>

#include "core/autograd/tape.h"
#include "core/nn/attention_context.h"
#include "core/nn/param_store.h"
#include "core/ops/ops.h"

namespace thimble {

/// Where a forward pass runs. tape null: no gradients are wanted.
struct Context {
  ParamStore& store;
  Arena& arena;
  DType dtype = DType::kF32;  // of activations
  Tape* tape = nullptr;
  bool fp8 = false;  // matmuls of linear(): x and W in e4m3, gradients of outputs in e5m2

  bool recording() const { return tape != nullptr && tape->recording(); }
};

/// A parameter as used by one block.
struct Weight {
  ParamId id = ParamId::kNone;
  BlockId block = 0;
  bool exists() const { return id != ParamId::kNone; }
};

/// Keeps a block pinned for the forward pass of its body and, through the tape, for its backward
/// pass.
class BlockScope {
 public:
  BlockScope(Context& ctx, BlockId block);
  ~BlockScope();
  BlockScope(const BlockScope&) = delete;
  BlockScope& operator=(const BlockScope&) = delete;

 private:
  Context& ctx_;
  BlockId block_;
  Pin pin_;
  std::shared_ptr<std::optional<Pin>> backward_pin_;
  int errors_ = std::uncaught_exceptions();  // in flight when the scope began
};

/// ids, order i32 [N] -> [N, C]. order: token indices sorted by (id, index), for the deterministic
/// gradient.
Var embedding(Context& ctx, const Tensor& ids, const Tensor& order, Weight table);

/// x [N, in] -> [N, out] = x W^T (+ bias). W logical [out, in].
Var linear(Context& ctx, const Var& x, Weight weight, Weight bias = {});

/// RMSNorm over the last dimension, or over each head when the weight is shorter than a row of x.
Var rms_norm(Context& ctx, const Var& x, Weight weight, float eps);

/// x + delta; reuses delta's memory when nobody else holds it.
Var add(Context& ctx, const Var& x, Var delta);

/// RoPE of x [N, H*D]; reuses x's memory when nobody else holds it.
Var rope(Context& ctx, Var x, const AttentionContext& attention);

struct AttentionInputs {
  const Var& q;  // [N, H*D]
  const Var& k;  // [N, Hkv*D]
  const Var& v;  // as k
};
/// -> [N, H*D]. The segment boundaries are those of `attention`.
Var attention(Context& ctx, const AttentionInputs& in, const ops::AttentionShape& shape,
              const AttentionContext& attention);

/// silu(gate) * up, [N, F] each.
Var swiglu(Context& ctx, const Var& gate, const Var& up);

struct LossInputs {
  Tensor targets;  // i32 [N]
  Tensor weights;  // f32 [N]; 0 = no loss
  // d(total)/d(weighted loss): 1 / trained tokens of the whole optimizer step.
  float grad_scale = 1;
  float softcap = 0;  // c > 0: of logits l, c tanh(l / c) count
};

/// Rows of logits that exist at once: a chunk of the LM head.
std::int64_t lm_head_chunk_rows(std::int64_t vocab, DeviceKind device);

/// LM head and cross-entropy in chunks of rows: losses f32 [N], unweighted. Under a tape the
/// gradients of x and of the LM head are computed chunk by chunk at once, so no logits outlive
/// their chunk.
Tensor lm_head_loss(Context& ctx, const Var& x, Weight head, const LossInputs& inputs);

/// Logits f32 [N, V] of all rows of x.
Tensor lm_head_logits(Context& ctx, const Tensor& x, Weight head);

}  // namespace thimble
