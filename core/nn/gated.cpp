// The product of an MLP's activated gate and its other half.
#include "core/nn/op_node.h"
#include "core/nn/variant_functions.h"
#include "core/ops/variants.h"

namespace thimble {
namespace {

struct GatedOps {
  const char* name;
  void (*value)(const Tensor& out, const Tensor& gate, const Tensor& up);
  void (*grad)(const Tensor& dgate, const Tensor& dup, const Tensor& dout, const Tensor& gate,
               const Tensor& up);
};
constexpr GatedOps kSwiglu{"swiglu", ops::swiglu, ops::swiglu_grad};
constexpr GatedOps kGeglu{"geglu", ops::geglu, ops::geglu_grad};

Var gated(Context& ctx, const GatedOps& op, const Var& gate, const Var& up) {
  Tensor out = activation(ctx, gate.value.shape(), op.name);
  op.value(out, gate.value, up.value);
  Var y = make_var(ctx, std::move(out), gate.needs_grad() || up.needs_grad());
  if (!ctx.recording() || !y.needs_grad()) return y;
  const auto saved_gate = ctx.tape->save(gate);
  const auto saved_up = ctx.tape->save(up);
  if (ctx.tape->rebuilds()) {
    y.rebuild = std::make_shared<RebuiltTensor>([&op, saved_gate, saved_up, arena = &ctx.arena] {
      const Tensor g = saved_gate->get();
      Tensor again = Tensor::empty(*arena, MemoryTag::kActivations, g.dtype(), g.shape(), op.name);
      op.value(again, g, saved_up->get());
      return again;
    });
  }
  ctx.tape->record([&op, saved_gate, saved_up, arena = &ctx.arena, gate_id = gate.id, up_id = up.id,
                    y_id = y.id](Tape& tape) {
    const Tensor dy = tape.take_grad(y_id);
    const Tensor g = saved_gate->get(), u = saved_up->get();
    const Tensor dgate = gradient_of(*arena, g), dup = gradient_of(*arena, u);
    op.grad(dgate, dup, dy, g, u);
    tape.add_grad(gate_id, dgate);
    tape.add_grad(up_id, dup);
  });
  return y;
}

}  // namespace

Var swiglu(Context& ctx, const Var& gate, const Var& up) {
  return gated(ctx, kSwiglu, gate, up);
}

Var geglu(Context& ctx, const Var& gate, const Var& up) {
  return gated(ctx, kGeglu, gate, up);
}

}  // namespace thimble
