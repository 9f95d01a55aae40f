#include "core/nn/op_node.h"
#include "core/nn/variant_functions.h"
#include "core/ops/variants.h"

namespace thimble {

Var scale(Context& ctx, Var x, float factor) {
  if (factor == 1.0f) return x;
  x.value = own(ctx.arena, std::move(x.value));
  ops::scale(x.value, x.value, factor);
  Var y = make_var(ctx, x.value, x.needs_grad());
  if (!ctx.recording() || !y.needs_grad()) return y;
  ctx.tape->record([factor, x_id = x.id, y_id = y.id, arena = &ctx.arena](Tape& tape) {
    const Tensor dy = own(*arena, tape.take_grad(y_id));  // a sum's terms share their gradient
    ops::scale(dy, dy, factor);
    tape.add_grad(x_id, dy);
  });
  return y;
}

}  // namespace thimble
