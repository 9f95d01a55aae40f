#include "core/ops/ops.h"

#include <algorithm>

#include "core/base/numeric.h"
#include "core/device/device_memory.h"
#include "core/ops/checks.h"
#include "core/ops/op_observer.h"

namespace thimble::ops {
namespace {

AttentionSpec attention_spec(const AttentionShape& s, const Tensor& q, const Tensor& k) {
  TH_CHECK(s.heads % s.kv_heads == 0, "{} heads over {} key heads", s.heads, s.kv_heads);
  check_shape(q, Shape{q.dim(0), s.heads * s.head_dim});
  check_shape(k, Shape{k.dim(0), s.kv_heads * s.head_dim});
  TH_CHECK(q.dim(0) % s.batch == 0 && k.dim(0) % s.batch == 0 && k.dim(0) >= q.dim(0));
  return {.batch = s.batch,
          .q_len = q.dim(0) / s.batch,
          .kv_len = k.dim(0) / s.batch,
          .heads = s.heads,
          .kv_heads = s.kv_heads,
          .head_dim = s.head_dim,
          .kv_stride = k.row_stride(),
          .window = s.window,
          .scale = s.scale,
          .softcap = s.softcap,
          .dtype = q.dtype()};
}

}  // namespace

void zero(const Tensor& x) {
  const OpTimer timer("zero");
  TH_CHECK(x.is_contiguous());
  table_of(x).zero(x.raw(), x.nbytes());
}

void copy(const Tensor& dst, const Tensor& src) {
  const OpTimer timer("copy");
  check_alike({&dst, &src});
  table_of(dst).copy(dst.raw(), src.raw(), dst.nbytes());
}

void to_host(void* host, const Tensor& x) {
  const OpTimer timer("to host");
  TH_CHECK(x.is_contiguous());
  if (!x.device().planning) device_memory(x.device().kind).to_host(host, x.raw(), x.nbytes());
}

void from_host(const Tensor& x, const void* host) {
  const OpTimer timer("from host");
  TH_CHECK(x.is_contiguous());
  if (!x.device().planning) device_memory(x.device().kind).from_host(x.raw(), host, x.nbytes());
}

void cast(const Tensor& dst, const Tensor& src) {
  const OpTimer timer("cast");
  check_same_device({&dst, &src});
  check_shape(dst, src.shape());
  TH_CHECK(dst.is_contiguous() && src.is_contiguous());
  table_of(dst).cast(dst.raw(), dst.dtype(), src.raw(), src.dtype(), dst.numel());
}

namespace {

void check_int8(const Tensor& codes, const Tensor& scales, const Tensor& values) {
  check_same_device({&codes, &scales, &values});
  check_dtype(codes, DType::kU8);
  check_dtype(scales, DType::kF32);
  check_shape(values, codes.shape());
  TH_CHECK(scales.numel() == ceil_div(codes.numel(), kInt8Group));
  TH_CHECK(codes.is_contiguous() && scales.is_contiguous() && values.is_contiguous());
}

}  // namespace

void dequantize(const Tensor& dst, const Tensor& codes, const Tensor& scales) {
  const OpTimer timer("dequantize");
  check_int8(codes, scales, dst);
  table_of(dst).dequantize(dst.raw(), dst.dtype(), codes.raw(),
                           static_cast<const float*>(scales.raw()), dst.numel());
}

void quantize(const Tensor& codes, const Tensor& scales, const Tensor& src) {
  const OpTimer timer("quantize");
  check_int8(codes, scales, src);
  check_dtype(src, DType::kF32);
  table_of(src).quantize(codes.raw(), static_cast<float*>(scales.raw()),
                         static_cast<const float*>(src.raw()), src.numel());
}

void accumulate(const Tensor& dst, const Tensor& src) {
  const OpTimer timer("accumulate");
  check_same_device({&dst, &src});
  check_shape(dst, src.shape());
  TH_CHECK(dst.is_contiguous() && src.is_contiguous());
  table_of(dst).accumulate(dst.raw(), dst.dtype(), src.raw(), src.dtype(), dst.numel());
}

void add(const Tensor& out, const Tensor& a, const Tensor& b) {
  const OpTimer timer("add");
  check_alike({&out, &a, &b});
  table_of(out).add(
      {.n = out.numel(), .dtype = out.dtype(), .in = {a.raw(), b.raw()}, .out = out.raw()});
}

void transpose(const Tensor& dst, const Tensor& src) {
  const OpTimer timer("transpose");
  check_same_device({&dst, &src});
  check_shape(dst, Shape{src.dim(1), src.dim(0)});
  check_dtype(dst, src.dtype());
  TH_CHECK(dst.is_contiguous() && src.is_contiguous());
  table_of(dst).transpose(dst.raw(), src.raw(), src.dim(0), src.dim(1), dtype_size(src.dtype()));
}

void add_squares(Arena& arena, ExactSum& sum, const Tensor& x) {
  const OpTimer timer("sum of squares");
  TH_CHECK(x.is_contiguous());
  const std::int64_t rows = x.rank() == 2 ? x.dim(0) : 1;
  if (x.numel() == 0) return;
  // One double per row, in memory that the kernel sees.
  const Tensor squares =
      Tensor::empty(arena, MemoryTag::kWorkspace, DType::kF32, Shape{2 * rows}, "squares of rows");
  table_of(x).row_squares(static_cast<double*>(squares.raw()), x.raw(), x.dtype(), rows,
                          x.numel() / rows);
  if (x.device().planning) return;
  std::vector<double> here(static_cast<std::size_t>(rows));
  to_host(here.data(), squares);
  for (const double s : here) sum.add(s);
}

void sum_in_order(const Tensor& dst, std::span<const Tensor> pieces, bool accumulate) {
  const OpTimer timer("sum of pieces");
  TH_CHECK(!pieces.empty() && dst.is_contiguous());
  TH_CHECK(!accumulate || dst.dtype() == DType::kF32, "sums of several micro-batches are f32");
  std::vector<const void*> data;
  for (const Tensor& piece : pieces) {
    check_alike({&pieces[0], &piece});
    check_shape(piece, dst.shape());
    data.push_back(piece.raw());
  }
  table_of(dst).sum_in_order({.n = dst.numel(),
                              .pieces = data.data(),
                              .count = static_cast<int>(data.size()),
                              .dtype = pieces[0].dtype(),
                              .dst = dst.raw(),
                              .dst_dtype = dst.dtype(),
                              .accumulate = accumulate});
}

void embedding(const Tensor& out, const Tensor& table, const Tensor& ids) {
  const OpTimer timer("embedding");
  check_same_device({&out, &table, &ids});
  check_shape(out, Shape{ids.numel(), table.dim(1)});
  check_dtype(out, table.dtype());
  check_dtype(ids, DType::kI32);
  TH_CHECK(out.is_contiguous() && table.is_contiguous());
  table_of(out).embedding({.tokens = ids.numel(),
                           .cols = table.dim(1),
                           .dtype = out.dtype(),
                           .table = table.raw(),
                           .ids = ids.data<std::int32_t>(),
                           .out = out.raw()});
}

void embedding_grad(const Tensor& dtable, const Tensor& dy, const Tensor& ids,
                    const Tensor& order) {
  const OpTimer timer("embedding_grad");
  check_same_device({&dtable, &dy, &ids, &order});
  check_shape(dy, Shape{ids.numel(), dtable.dim(1)});
  check_shape(order, ids.shape());
  table_of(dy).embedding_grad({.tokens = ids.numel(),
                               .cols = dtable.dim(1),
                               .table_dtype = dtable.dtype(),
                               .dy_dtype = dy.dtype(),
                               .dy = dy.raw(),
                               .ids = ids.data<std::int32_t>(),
                               .order = order.data<std::int32_t>(),
                               .dtable = dtable.raw()});
}

void column_sums(Arena& arena, const Tensor& out, const Tensor& dy, bool accumulate) {
  const OpTimer timer("column_sums");
  check_same_device({&out, &dy});
  check_shape(out, Shape{dy.dim(1)});
  TH_CHECK(dy.is_contiguous());
  const std::int64_t chunks = norm_chunks(dy.dim(0));
  const Tensor partial = workspace(arena, chunks * dy.dim(1) * 4, "bias gradient");
  auto* sums = static_cast<float*>(partial.raw());
  table_of(dy).column_sums(sums, dy.raw(), dy.dtype(), dy.dim(0), dy.dim(1));
  table_of(dy).fold_rows({.chunks = chunks,
                          .cols = dy.dim(1),
                          .partial = sums,
                          .out = out.raw(),
                          .out_dtype = out.dtype(),
                          .accumulate = accumulate});
}

void swiglu(const Tensor& out, const Tensor& gate, const Tensor& up) {
  const OpTimer timer("swiglu");
  check_alike({&out, &gate, &up});
  table_of(out).swiglu(
      {.n = out.numel(), .dtype = out.dtype(), .in = {gate.raw(), up.raw()}, .out = out.raw()});
}

void swiglu_grad(const Tensor& dgate, const Tensor& dup, const Tensor& dout, const Tensor& gate,
                 const Tensor& up) {
  const OpTimer timer("swiglu_grad");
  check_alike({&dgate, &dup, &dout, &gate, &up});
  table_of(dout).swiglu_grad({.n = dout.numel(),
                              .dtype = dout.dtype(),
                              .dout = dout.raw(),
                              .gate = gate.raw(),
                              .up = up.raw(),
                              .dgate = dgate.raw(),
                              .dup = dup.raw()});
}

void attention(Arena& arena, const AttentionShape& shape, const AttentionForward& f) {
  const OpTimer timer("attention");
  check_alike({&f.out, &f.q});
  check_alike({&f.k, &f.v});
  const AttentionSpec spec = attention_spec(shape, f.q, f.k);
  check_shape(f.segment_start, Shape{f.q.dim(0)});
  if (f.lse.defined()) check_shape(f.lse, Shape{spec.batch, spec.heads, spec.q_len});
  const KernelTable& table = table_of(f.q);
  const Tensor scratch =
      workspace(arena, table.attention_workspace_bytes(spec, false), "attention");
  table.attention(spec, {.q = f.q.raw(),
                         .k = f.k.raw(),
                         .v = f.v.raw(),
                         .segment_start = f.segment_start.data<std::int32_t>(),
                         .out = f.out.raw(),
                         .lse = static_cast<float*>(f.lse.raw()),
                         .workspace = scratch.raw()});
}

void attention_grad(Arena& arena, const AttentionShape& shape, const AttentionGrad& g) {
  const OpTimer timer("attention_grad");
  check_alike({&g.q, &g.out, &g.dout, &g.dq});
  check_alike({&g.k, &g.v, &g.dk, &g.dv});
  const AttentionSpec spec = attention_spec(shape, g.q, g.k);
  check_shape(g.lse, Shape{spec.batch, spec.heads, spec.q_len});
  const KernelTable& table = table_of(g.q);
  const Tensor scratch =
      workspace(arena, table.attention_workspace_bytes(spec, true), "attention backward");
  table.attention_grad(spec, {.forward = {.q = g.q.raw(),
                                          .k = g.k.raw(),
                                          .v = g.v.raw(),
                                          .segment_start = g.segment_start.data<std::int32_t>(),
                                          .out = g.out.raw(),
                                          .lse = g.lse.data<float>(),
                                          .workspace = scratch.raw()},
                              .dout = g.dout.raw(),
                              .dq = g.dq.raw(),
                              .dk = g.dk.raw(),
                              .dv = g.dv.raw()});
}

Tensor cross_entropy(const CrossEntropy& c) {
  const OpTimer timer("cross_entropy");
  const Tensor& logits = c.logits;
  check_same_device({&logits, &c.targets, &c.weights, &c.losses});
  const std::int64_t rows = logits.dim(0), vocab = logits.dim(1);
  check_dtype(logits, DType::kF32);
  TH_CHECK(logits.is_contiguous());
  for (const Tensor* t : {&c.targets, &c.weights, &c.losses}) check_shape(*t, Shape{rows});
  table_of(logits).cross_entropy({.rows = rows,
                                  .vocab = vocab,
                                  .logits = logits.data<float>(),
                                  .targets = c.targets.data<std::int32_t>(),
                                  .weights = c.weights.data<float>(),
                                  .losses = c.losses.data<float>(),
                                  .grad_scale = c.grad_scale,
                                  .grad_dtype = c.grad_dtype.value_or(DType::kF32),
                                  .want_grad = c.grad_dtype.has_value(),
                                  .softcap = c.softcap});
  if (c.grad_dtype != DType::kBF16) return logits;
  return Tensor::wrap(logits.raw(), DType::kBF16, Shape{rows, 2 * vocab}, logits.device())
      .columns(0, vocab);
}

}  // namespace thimble::ops
