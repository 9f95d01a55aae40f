// RMSNorm, with its weights or with 1 + its weights as factors.
#include "core/nn/op_node.h"
#include "core/nn/variant_functions.h"
#include "core/ops/variants.h"

namespace thimble {
namespace {

struct NormOps {
  void (*value)(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w, float eps);
  void (*grad)(Arena& arena, const ops::RmsNormGrad& g);
};
constexpr NormOps kByWeight{ops::rms_norm, ops::rms_norm_grad};
constexpr NormOps kByOnePlusWeight{ops::unit_rms_norm, ops::unit_rms_norm_grad};

struct Norm {
  const NormOps& op;
  Weight weight;
  float eps;
};

Var normalise(Context& ctx, const Norm& norm, const Var& x) {
  const NodeContext node{ctx.store, ctx.arena};
  const Weight weight = norm.weight;
  const std::int64_t cols = ctx.store.params().info(weight.id).shape[0];
  Tensor out = activation(ctx, x.value.shape(), "norm");
  const Tensor rstd = Tensor::empty(ctx.arena, MemoryTag::kActivations, DType::kF32,
                                    Shape{x.value.numel() / cols}, "norm scale");
  {
    const Pin pin(ctx.store, weight.block);
    norm.op.value(out, rstd, x.value, pin.view(weight.id), norm.eps);
  }
  const bool trainable = use(ctx, weight);
  Var y = make_var(ctx, std::move(out), trainable || x.needs_grad());
  if (!ctx.recording() || !y.needs_grad()) return y;
  const auto saved_x = ctx.tape->save(x);
  if (ctx.tape->rebuilds()) {
    y.rebuild = std::make_shared<RebuiltTensor>([=] {
      const Tensor source = saved_x->get();
      Tensor again = Tensor::empty(node.arena, MemoryTag::kActivations, source.dtype(),
                                   source.shape(), "norm");
      const Tensor scale =
          Tensor::empty(node.arena, MemoryTag::kActivations, DType::kF32, rstd.shape(), "norm");
      const Pin pin(node.store, weight.block);
      norm.op.value(again, scale, source, pin.view(weight.id), norm.eps);
      return again;
    });
  }
  ctx.tape->record([=, x_id = x.id, y_id = y.id](Tape& tape) {
    const Tensor dy = tape.take_grad(y_id);
    const Tensor source = saved_x->get();
    const GradTarget dw = trainable ? tape.sink().accumulate_into(weight.id) : GradTarget{};
    // Without a gradient for x the kernel still needs somewhere to write it.
    const GradTarget dx = x_id >= 0 ? tape.grad_slot(x_id, dy.dtype(), source.shape())
                                    : GradTarget{Tensor::empty(node.arena, MemoryTag::kWorkspace,
                                                               dy.dtype(), source.shape()),
                                                 false};
    const Pin pin(node.store, weight.block);
    norm.op.grad(node.arena, {.x = source,
                              .w = pin.view(weight.id),
                              .rstd = rstd,
                              .dy = dy,
                              .dx = dx.tensor,
                              .accumulate_dx = dx.accumulate,
                              .dw = trainable ? &dw.tensor : nullptr,
                              .accumulate_dw = dw.accumulate});
    if (trainable) tape.finish_use(weight.id);
  });
  return y;
}

}  // namespace

Var rms_norm(Context& ctx, const Var& x, Weight weight, float eps) {
  return normalise(ctx, {kByWeight, weight, eps}, x);
}

Var unit_rms_norm(Context& ctx, const Var& x, Weight weight, float eps) {
  return normalise(ctx, {kByOnePlusWeight, weight, eps}, x);
}

}  // namespace thimble
