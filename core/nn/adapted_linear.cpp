#include "core/nn/adapted_linear.h"

#include <algorithm>

#include "core/nn/op_node.h"
#include "core/ops/adapter_ops.h"

namespace thimble {
namespace {

// y += scale (x a^T) b^T, in y's memory when nobody else holds it.
Var add_low_rank(Context& ctx, Var y, const Var& x, const LinearAdapter& adapter) {
  const NodeContext node{ctx.store, ctx.arena};
  const auto [a, b, scale] = std::tuple(adapter.a, adapter.b, adapter.scale);
  const std::int64_t rank = ctx.store.params().info(a.id).shape[0];
  const Tensor inner = activation(ctx, Shape{x.value.dim(0), rank}, "low rank");
  multiply(node, {x.value, a, true}, inner, {});
  if (scale != 1) ops::scale_columns(inner, inner, {.scale = scale});
  const Tensor out = own(ctx.arena, std::move(y.value));
  multiply(node, {inner, b, true}, out, {.accumulate = true});
  const bool train_a = use(ctx, a), train_b = use(ctx, b);
  Var sum = make_var(ctx, out, train_a || train_b || x.needs_grad() || y.needs_grad());
  if (!ctx.recording() || !sum.needs_grad()) return sum;
  const auto saved_x = train_a ? ctx.tape->save(x) : nullptr;
  const auto saved_inner = train_b ? ctx.tape->save(inner) : nullptr;
  ctx.tape->record(
      [=, x_id = x.id, y_id = y.id, sum_id = sum.id, x_shape = x.value.shape()](Tape& tape) {
        const Tensor dy = tape.take_grad(sum_id);
        if (train_b) {
          weight_gradient(tape, node, b, dy, saved_inner->get());
          tape.finish_use(b.id);
        }
        if (train_a || x_id >= 0) {
          const Tensor d_inner = Tensor::empty(node.arena, MemoryTag::kActivations, dy.dtype(),
                                               Shape{dy.dim(0), rank}, "gradient");
          multiply(node, {dy, b, false}, d_inner, {});
          if (scale != 1) ops::scale_columns(d_inner, d_inner, {.scale = scale});
          if (train_a) {
            weight_gradient(tape, node, a, d_inner, saved_x->get());
            tape.finish_use(a.id);
          }
          if (x_id >= 0) {
            const GradTarget dx = tape.grad_slot(x_id, dy.dtype(), x_shape);
            multiply(node, {d_inner, a, false}, dx.tensor, {.accumulate = dx.accumulate});
          }
        }
        tape.add_grad(y_id, dy);
      });
  return sum;
}

// x * v, by columns.
Var scale_columns(Context& ctx, const Var& x, Weight v) {
  const NodeContext node{ctx.store, ctx.arena};
  Tensor out = activation(ctx, x.value.shape(), "scaled columns");
  {
    const Pin pin(ctx.store, v.block);
    const Tensor by = pin.view(v.id);
    ops::scale_columns(out, x.value, {.by = &by});
  }
  const bool trains = use(ctx, v);
  Var y = make_var(ctx, std::move(out), trains || x.needs_grad());
  if (!ctx.recording() || !y.needs_grad()) return y;
  const auto saved = trains ? ctx.tape->save(x) : nullptr;
  ctx.tape->record([=, x_id = x.id, y_id = y.id](Tape& tape) {
    const Tensor dy = tape.take_grad(y_id);
    if (trains) {
      const GradTarget dv = tape.sink().accumulate_into(v.id);
      ops::column_dots(node.arena, dv.tensor,
                       {.a = dy, .b = saved->get(), .accumulate = dv.accumulate});
      tape.finish_use(v.id);
    }
    if (x_id < 0) return;
    const GradTarget dx = tape.grad_slot(x_id, dy.dtype(), dy.shape());
    const Pin pin(node.store, v.block);
    const Tensor by = pin.view(v.id);
    ops::scale_columns(dx.tensor, dy, {.by = &by, .accumulate = dx.accumulate});
  });
  return y;
}

// x [N, in] -> [N, out] by the first rows and columns of a larger matrix, which is not trained.
Var part_linear(Context& ctx, const Var& x, Weight weight, std::int64_t outputs) {
  const NodeContext node{ctx.store, ctx.arena};
  const std::int64_t inputs = x.value.dim(1);
  const bool transposed = ctx.store.params().info(weight.id).transposed();
  const auto part = [weight, inputs, outputs, transposed](const Pin& pin) {
    const Tensor whole = pin.view(weight.id);
    return transposed ? whole.rows(0, inputs).columns(0, outputs)
                      : whole.rows(0, outputs).columns(0, inputs);
  };
  Tensor out = activation(ctx, Shape{x.value.dim(0), outputs}, "linear");
  {
    const Pin pin(ctx.store, weight.block);
    ops::matmul(ctx.arena, {x.value}, {part(pin), !transposed}, out);
  }
  Var y = make_var(ctx, std::move(out), x.needs_grad());
  if (!ctx.recording() || !y.needs_grad()) return y;
  ctx.tape->record([=, x_id = x.id, y_id = y.id, x_shape = x.value.shape()](Tape& tape) {
    const Tensor dy = tape.take_grad(y_id);
    const GradTarget dx = tape.grad_slot(x_id, dy.dtype(), x_shape);
    const Pin pin(node.store, weight.block);
    ops::matmul(node.arena, {dy}, {part(pin), transposed}, dx.tensor,
                {.accumulate = dx.accumulate});
  });
  return y;
}

// y + outer (b (inner (a x))).
Var add_shared(Context& ctx, const Var& y, const Var& x, const LinearAdapter& adapter) {
  const std::int64_t rank = ctx.store.params().info(adapter.inner.id).shape[0];
  const Var inner = scale_columns(ctx, part_linear(ctx, x, adapter.a, rank), adapter.inner);
  Var outer = scale_columns(ctx, part_linear(ctx, inner, adapter.b, y.value.dim(1)), adapter.outer);
  return add(ctx, y, std::move(outer));
}

// x * magnitude / length + bias, where `squares` are those of the lengths.
Var rescale(Context& ctx, const Var& x, const Tensor& squares, Weight magnitude, Weight bias) {
  const NodeContext node{ctx.store, ctx.arena};
  const Tensor by = activation(ctx, squares.shape(), "scale of a direction");
  Tensor out = activation(ctx, x.value.shape(), "linear");
  {
    const Pin pin(ctx.store, magnitude.block);
    ops::over_root(by, pin.view(magnitude.id), squares);
    const Tensor b = bias.exists() ? pin.view(bias.id) : Tensor();
    ops::scale_columns(out, x.value, {.by = &by, .add = bias.exists() ? &b : nullptr});
  }
  const bool trains = use(ctx, magnitude), train_bias = use(ctx, bias);
  Var y = make_var(ctx, std::move(out), trains || train_bias || x.needs_grad());
  if (!ctx.recording() || !y.needs_grad()) return y;
  const auto saved = trains ? ctx.tape->save(x) : nullptr;
  ctx.tape->record([=, x_id = x.id, y_id = y.id](Tape& tape) {
    const Tensor dy = tape.take_grad(y_id);
    if (trains) {
      const Tensor dots = Tensor::empty(node.arena, MemoryTag::kWorkspace, DType::kF32,
                                        squares.shape(), "gradient of a magnitude");
      ops::column_dots(node.arena, dots, {.a = dy, .b = saved->get()});
      ops::over_root(dots, dots, squares);
      const GradTarget dm = tape.sink().accumulate_into(magnitude.id);
      dm.accumulate ? ops::accumulate(dm.tensor, dots) : ops::cast(dm.tensor, dots);
      tape.finish_use(magnitude.id);
    }
    if (train_bias) {
      const GradTarget db = tape.sink().accumulate_into(bias.id);
      ops::column_sums(node.arena, db.tensor, dy, db.accumulate);
      tape.finish_use(bias.id);
    }
    if (x_id < 0) return;
    const GradTarget dx = tape.grad_slot(x_id, dy.dtype(), dy.shape());
    ops::scale_columns(dx.tensor, dy, {.by = &by, .accumulate = dx.accumulate});
  });
  return y;
}

// The logical [r, in] matrix of a stored a: its columns [begin, end), or their transpose.
struct ColumnsOf {
  Tensor part;
  bool transposed = false;
};
ColumnsOf columns_of(const ParamInfo& info, const Tensor& stored, Slice in, bool transpose) {
  if (info.transposed()) return {stored.rows(in.begin, in.end), !transpose};
  return {stored.columns(in.begin, in.end), transpose};
}

}  // namespace

void adapted_row_squares(Arena& arena, ParamStore& store, const LinearAdapter& adapter,
                         const FrozenMatrix& matrix, const Tensor& out) {
  constexpr std::int64_t kTileElements = std::int64_t{1} << 20;
  const ParamInfo& info_a = store.params().info(adapter.a.id);
  const Pin pin(store, matrix.weight.block);
  const Tensor a = pin.view(adapter.a.id), b = pin.view(adapter.b.id);
  const bool b_transposed = store.params().info(adapter.b.id).transposed();
  const Tensor scaled =
      Tensor::empty(arena, MemoryTag::kWorkspace, b.dtype(), b.shape(), "scaled matrix");
  ops::scale_columns(scaled, b, {.scale = adapter.scale});
  const bool packed = matrix.packed != nullptr;
  const Tensor w = packed ? Tensor() : pin.view(matrix.weight.id);
  const bool transposed = !packed && store.params().info(matrix.weight.id).transposed();
  const std::int64_t rows = packed ? matrix.packed->values.rows : w.dim(0),
                     cols = packed ? matrix.packed->values.cols : w.dim(1);
  const std::int64_t step = std::clamp<std::int64_t>(kTileElements / cols, 1, rows);
  for (std::int64_t begin = 0; begin < rows; begin += step) {
    const std::int64_t end = std::min(rows, begin + step);
    const Tensor tile = Tensor::empty(arena, MemoryTag::kWorkspace, DType::kF32,
                                      Shape{end - begin, cols}, "tile of a weight");
    if (packed) {
      ops::unpack(tile, matrix.packed->values, {.row = begin});
    } else {
      ops::cast(tile, w.rows(begin, end));
    }
    if (transposed) {
      const ColumnsOf left = columns_of(info_a, a, {begin, end}, true);
      ops::matmul(arena, {left.part, left.transposed}, {scaled, !b_transposed}, tile,
                  {.accumulate = true});
      ops::column_dots(arena, out, {.a = tile, .b = tile, .accumulate = begin > 0});
      continue;
    }
    const ColumnsOf right = columns_of(info_a, a, {0, info_a.shape[1]}, false);
    const Tensor left = b_transposed ? scaled.columns(begin, end) : scaled.rows(begin, end);
    ops::matmul(arena, {left, b_transposed}, {right.part, right.transposed}, tile,
                {.accumulate = true});
    ops::squares_of_rows(out.rows(begin, end), tile);
  }
}

Var frozen_linear(Context& ctx, const Var& x, const FrozenMatrix& matrix, Weight bias) {
  return matrix.packed != nullptr ? packed_linear(ctx, x, *matrix.packed, bias)
                                  : linear(ctx, x, matrix.weight, bias);
}

Var adapted_linear(Context& ctx, const Var& x, const LinearAdapter& adapter,
                   const FrozenMatrix& matrix, Weight bias) {
  if (adapter.output_scale.exists())
    return scale_columns(ctx, frozen_linear(ctx, x, matrix, bias), adapter.output_scale);
  if (adapter.input_scale.exists())
    return frozen_linear(ctx, scale_columns(ctx, x, adapter.input_scale), matrix, bias);
  if (adapter.inner.exists())
    return add_shared(ctx, frozen_linear(ctx, x, matrix, bias), x, adapter);
  if (!adapter.magnitude.exists())
    return add_low_rank(ctx, frozen_linear(ctx, x, matrix, bias), x, adapter);
  const std::int64_t outputs = ctx.store.params().info(adapter.magnitude.id).shape[0];
  const Tensor squares = Tensor::empty(ctx.arena, MemoryTag::kActivations, DType::kF32,
                                       Shape{outputs}, "squares of rows");
  adapted_row_squares(ctx.arena, ctx.store, adapter, matrix, squares);
  const Var y = add_low_rank(ctx, frozen_linear(ctx, x, matrix), x, adapter);
  return rescale(ctx, y, squares, adapter.magnitude, bias);
}

}  // namespace thimble
