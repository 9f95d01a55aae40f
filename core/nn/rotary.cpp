// RoPE of whole heads, or of the beginning of each.
#include "core/nn/op_node.h"
#include "core/nn/variant_functions.h"
#include "core/ops/rope.h"
#include "core/ops/variants.h"

namespace thimble {
namespace {

// head_dim 0: whole heads.
struct Rotation {
  Tensor table, positions;
  std::int64_t head_dim = 0;

  void turn(const Tensor& x, bool inverse) const {
    if (head_dim == 0 || head_dim == table.dim(1)) {
      ops::rope(x, table, positions, inverse);
    } else {
      ops::partial_rope(x, table, positions, head_dim, inverse);
    }
  }
};

Var rotate(Context& ctx, Var x, const Rotation& rotation) {
  x.value = own(ctx.arena, std::move(x.value));
  rotation.turn(x.value, false);
  Var y = make_var(ctx, x.value, x.needs_grad());
  if (!ctx.recording() || !y.needs_grad()) return y;
  ctx.tape->record([rotation, x_id = x.id, y_id = y.id, arena = &ctx.arena](Tape& tape) {
    const Tensor dy = own(*arena, tape.take_grad(y_id));  // a sum's terms share their gradient
    rotation.turn(dy, true);                              // a rotation is orthogonal
    tape.add_grad(x_id, dy);
  });
  return y;
}

}  // namespace

Var rope(Context& ctx, Var x, const AttentionContext& attention) {
  return rotate(ctx, std::move(x), {attention.rope_table, attention.positions});
}

Var partial_rope(Context& ctx, Var x, const AttentionContext& attention, std::int64_t head_dim) {
  return rotate(ctx, std::move(x), {attention.rope_table, attention.positions, head_dim});
}

}  // namespace thimble
