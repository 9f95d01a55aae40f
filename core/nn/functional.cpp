#include "core/nn/functional.h"

#include <algorithm>

#include "core/nn/op_node.h"

namespace thimble {
namespace {

// The 8-bit formats of a matmul whose first operand is an activation, or the gradient of an output.
std::optional<ops::Fp8Operands> fp8_operands(bool fp8, bool first_is_gradient) {
  if (!fp8) return std::nullopt;
  return ops::Fp8Operands{.a = first_is_gradient ? Fp8Format::kE5M2 : Fp8Format::kE4M3};
}

}  // namespace

bool use(Context& ctx, Weight weight) {
  if (!weight.exists() || ctx.tape == nullptr || !ctx.tape->sink().wants(weight.id)) return false;
  ctx.tape->begin_use(weight.id);
  return true;
}

void multiply(NodeContext ctx, const WeightMatmul& matmul, const Tensor& y,
              ops::MatmulOptions options) {
  const Tensor& x = matmul.x;
  const Weight weight = matmul.weight;
  const Pin pin(ctx.store, weight.block);
  const Tensor w = pin.view(weight.id);
  const bool transposed = matmul.transposed != ctx.store.params().info(weight.id).transposed();
  options.fp8 = fp8_operands(ctx.fp8, !matmul.transposed);
  const Tensor prepacked =
      options.fp8 ? Tensor()
                  : pin.prepacked(weight.id, ops::matmul_spec({x}, {w, transposed}, y, options));
  if (prepacked.defined()) options.prepacked = &prepacked;
  ops::matmul(ctx.arena, {x}, {w, transposed}, y, options);
}

void weight_gradient(Tape& tape, NodeContext ctx, Weight weight, const Tensor& dy,
                     const Tensor& x) {
  const GradTarget target = tape.sink().accumulate_into(weight.id);
  const bool transposed = ctx.store.params().info(weight.id).transposed();
  const Tensor& first = transposed ? x : dy;
  const Tensor& second = transposed ? dy : x;
  std::optional<ops::Fp8Operands> fp8 = fp8_operands(ctx.fp8, true);
  if (fp8 && transposed) std::swap(fp8->a, fp8->b);
  ops::matmul(ctx.arena, {first, true}, {second}, target.tensor,
              {.accumulate = target.accumulate, .fp8 = fp8});
}

namespace {

// The transpose [n, m] of a stored matrix [m, n].
Tensor transposed_copy(Arena& arena, const Tensor& stored) {
  Tensor rows = Tensor::empty(arena, MemoryTag::kWorkspace, stored.dtype(),
                              Shape{stored.dim(1), stored.dim(0)}, "transposed embedding");
  ops::transpose(rows, stored);
  return rows;
}

// The tokens that looked rows of an embedding table up; order as embedding() takes it.
struct Lookup {
  Weight table;
  Tensor ids, order;
};

// dTable[id] (+)= dy of every token with that id. A table wider than its vocabulary is stored
// transposed: its rows are gathered by transposing the whole of it, which is small beside the
// layers, and the sums are those of a table that is not transposed, bit by bit.
void embedding_gradient(Tape& tape, NodeContext ctx, const Lookup& lookup, const Tensor& dy) {
  const GradTarget target = tape.sink().accumulate_into(lookup.table.id);
  if (!target.accumulate) ops::zero(target.tensor);
  if (!ctx.store.params().info(lookup.table.id).transposed()) {
    ops::embedding_grad(target.tensor, dy, lookup.ids, lookup.order);
    return;
  }
  const Tensor rows = transposed_copy(ctx.arena, target.tensor);
  ops::embedding_grad(rows, dy, lookup.ids, lookup.order);
  ops::transpose(target.tensor, rows);
}

}  // namespace

BlockScope::BlockScope(Context& ctx, BlockId block)
    : ctx_(ctx),
      block_(block),
      pin_(ctx.store, block),
      backward_pin_(std::make_shared<std::optional<Pin>>()) {
  if (ctx.recording()) {
    ctx.tape->record([pin = backward_pin_](Tape&) { pin->reset(); });
  }
}

BlockScope::~BlockScope() {
  // An error that ends the block means that nothing runs backwards; a destructor must not throw
  // another.
  if (!ctx_.recording() || std::uncaught_exceptions() > errors_) return;
  if (ctx_.tape->replaying()) backward_pin_->emplace(std::move(pin_));
  ctx_.tape->record([pin = backward_pin_, store = &ctx_.store, block = block_](Tape&) {
    if (!pin->has_value()) pin->emplace(*store, block);
    if (block > 1) store->prefetch(block - 1);  // the embedding's backward pass reads no weight
  });
}

Var embedding(Context& ctx, const Tensor& ids, const Tensor& order, Weight table) {
  const NodeContext node{ctx.store, ctx.arena};
  const ParamInfo& info = ctx.store.params().info(table.id);
  Tensor out = activation(ctx, Shape{ids.numel(), info.shape[1]}, "embedding");
  {
    const Pin pin(ctx.store, table.block);
    const Tensor stored = pin.view(table.id);
    ops::embedding(out, info.transposed() ? transposed_copy(ctx.arena, stored) : stored, ids);
  }
  const bool trainable = use(ctx, table);
  Var y = make_var(ctx, std::move(out), trainable);
  if (trainable && ctx.recording()) {
    ctx.tape->record([node, lookup = Lookup{table, ids, order}, id = y.id](Tape& tape) {
      const Tensor dy = tape.take_grad(id);
      embedding_gradient(tape, node, lookup, dy);
      tape.finish_use(lookup.table.id);
    });
  }
  return y;
}

Var linear(Context& ctx, const Var& x, Weight weight, Weight bias) {
  const NodeContext node{ctx.store, ctx.arena, ctx.fp8};
  const std::int64_t out_features = ctx.store.params().info(weight.id).shape[0];
  Tensor out = activation(ctx, Shape{x.value.dim(0), out_features}, "linear");
  {
    const Pin pin(ctx.store, weight.block);
    const Tensor b = bias.exists() ? pin.view(bias.id) : Tensor();
    multiply(node, {x.value, weight, true}, out, {.bias = bias.exists() ? &b : nullptr});
  }
  const bool train_weight = use(ctx, weight);
  const bool train_bias = use(ctx, bias);
  Var y = make_var(ctx, std::move(out), train_weight || train_bias || x.needs_grad());
  if (!ctx.recording() || !y.needs_grad()) return y;
  const auto saved = train_weight ? ctx.tape->save(x) : nullptr;
  ctx.tape->record([=, x_id = x.id, y_id = y.id, x_shape = x.value.shape()](Tape& tape) {
    const Tensor dy = tape.take_grad(y_id);
    if (train_weight) {
      weight_gradient(tape, node, weight, dy, saved->get());
      tape.finish_use(weight.id);
    }
    if (train_bias) {
      const GradTarget target = tape.sink().accumulate_into(bias.id);
      ops::column_sums(node.arena, target.tensor, dy, target.accumulate);
      tape.finish_use(bias.id);
    }
    if (x_id < 0) return;
    const GradTarget dx = tape.grad_slot(x_id, dy.dtype(), x_shape);
    multiply(node, {dy, weight, false}, dx.tensor, {.accumulate = dx.accumulate});
  });
  return y;
}

Var add(Context& ctx, const Var& x, Var delta) {
  const bool in_place = delta.value.is_sole_owner();
  Tensor out = in_place ? delta.value : activation(ctx, x.value.shape(), "residual");
  ops::add(out, x.value, delta.value);
  Var y = make_var(ctx, std::move(out), x.needs_grad() || delta.needs_grad());
  if (!ctx.recording() || !y.needs_grad()) return y;
  ctx.tape->record([x_id = x.id, delta_id = delta.id, y_id = y.id](Tape& tape) {
    const Tensor dy = tape.take_grad(y_id);
    tape.add_grad(x_id, dy);
    tape.add_grad(delta_id, dy);
  });
  return y;
}

Var attention(Context& ctx, const AttentionInputs& in, const ops::AttentionShape& shape,
              const AttentionContext& attention) {
  const auto& [q, k, v] = in;
  Tensor out = activation(ctx, q.value.shape(), "attention");
  const Tensor segment_start = attention.segment_start;
  const bool needs_grad = q.needs_grad() || k.needs_grad() || v.needs_grad();
  Tensor lse;
  if (ctx.recording() && needs_grad) {
    lse = Tensor::empty(ctx.arena, MemoryTag::kActivations, DType::kF32,
                        Shape{shape.batch, shape.heads, q.value.dim(0) / shape.batch},
                        "attention sums");
  }
  ops::attention(ctx.arena, shape,
                 {.q = q.value,
                  .k = k.value,
                  .v = v.value,
                  .segment_start = segment_start,
                  .out = out,
                  .lse = lse});
  Var y = make_var(ctx, std::move(out), needs_grad);
  if (!ctx.recording() || !needs_grad) return y;
  struct Saved {
    std::shared_ptr<SavedTensor> q, k, v, out;
  };
  const Saved saved{ctx.tape->save(q), ctx.tape->save(k), ctx.tape->save(v), ctx.tape->save(y)};
  ctx.tape->record([saved, lse, segment_start, shape, arena = &ctx.arena, q_id = q.id, k_id = k.id,
                    v_id = v.id, y_id = y.id](Tape& tape) {
    const Tensor dout = tape.take_grad(y_id);
    const Tensor query = saved.q->get(), key = saved.k->get(), value = saved.v->get();
    const Tensor dq = gradient_of(*arena, query), dk = gradient_of(*arena, key),
                 dv = gradient_of(*arena, value);
    ops::attention_grad(*arena, shape,
                        {.q = query,
                         .k = key,
                         .v = value,
                         .out = saved.out->get(),
                         .lse = lse,
                         .segment_start = segment_start,
                         .dout = dout,
                         .dq = dq,
                         .dk = dk,
                         .dv = dv});
    tape.add_grad(q_id, dq);
    tape.add_grad(k_id, dk);
    tape.add_grad(v_id, dv);
  });
  return y;
}

}  // namespace thimble
