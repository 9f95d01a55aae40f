// What the differentiable forms of operations share: the output of an operation as a variable, and
// what its node on the tape may hold. For the sources of functional.h; models do not include it.
#pragma once

#include <string_view>
#include <utility>

#include "core/nn/functional.h"

namespace thimble {

/// What a node needs of its context: the context itself may be gone when the node runs.
struct NodeContext {
  ParamStore& store;
  Arena& arena;
  bool fp8 = false;
};

/// An uninitialised activation of the context's dtype.
inline Tensor activation(Context& ctx, const Shape& shape, std::string_view label) {
  return Tensor::empty(ctx.arena, MemoryTag::kActivations, ctx.dtype, shape, label);
}

/// An uninitialised gradient of `of`.
inline Tensor gradient_of(Arena& arena, const Tensor& of) {
  return Tensor::empty(arena, MemoryTag::kActivations, of.dtype(), of.shape(), "gradient");
}

/// The output of an operation; without a tape it needs no gradient.
inline Var make_var(Context& ctx, Tensor value, bool needs_grad) {
  if (ctx.tape == nullptr) return {.value = std::move(value), .id = -1, .rebuild = nullptr};
  return ctx.tape->make(std::move(value), needs_grad);
}

/// A tensor that may be written over: the given one if nobody else holds it, else a copy.
inline Tensor own(Arena& arena, Tensor tensor) {
  if (tensor.is_sole_owner()) return tensor;
  Tensor copy =
      Tensor::empty(arena, MemoryTag::kActivations, tensor.dtype(), tensor.shape(), "copy");
  ops::copy(copy, tensor);
  return copy;
}

/// Announces the use of a trainable parameter; false if it needs no gradient.
bool use(Context& ctx, Weight weight);

/// x W^T of the logical weight, or x W.
struct WeightMatmul {
  const Tensor& x;
  Weight weight;
  bool transposed;
};

/// y (+)= the matmul, with the prepacked weight if the store keeps one.
void multiply(NodeContext ctx, const WeightMatmul& matmul, const Tensor& y,
              ops::MatmulOptions options);

/// dW (+)= dy^T x in the storage layout of W.
void weight_gradient(Tape& tape, NodeContext ctx, Weight weight, const Tensor& dy, const Tensor& x);

}  // namespace thimble
