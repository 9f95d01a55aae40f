#include "core/ops/adapter_ops.h"

#include "core/ops/adapter_kernels.h"
#include "core/ops/checks.h"
#include "core/ops/op_observer.h"

namespace thimble::ops {
namespace {

void check_columns(const Tensor* vector, const Tensor& x) {
  if (vector == nullptr) return;
  check_same_device({&x, vector});
  check_shape(*vector, Shape{x.dim(1)});
  check_dtype(*vector, x.dtype());
}

const void* raw_of(const Tensor* tensor) {
  return tensor == nullptr ? nullptr : tensor->raw();
}

}  // namespace

void scale_columns(const Tensor& out, const Tensor& x, const ColumnScaling& scaling) {
  const OpTimer timer("scale columns");
  check_alike({&out, &x});
  TH_CHECK(x.rank() == 2);
  check_columns(scaling.by, x);
  check_columns(scaling.add, x);
  adapter_kernels(x.device())
      .scale_columns({.rows = x.dim(0),
                      .cols = x.dim(1),
                      .dtype = x.dtype(),
                      .x = x.raw(),
                      .by = raw_of(scaling.by),
                      .add = raw_of(scaling.add),
                      .scale = scaling.scale,
                      .accumulate = scaling.accumulate,
                      .out = out.raw()});
}

void column_dots(Arena& arena, const Tensor& out, const ColumnDots& dots) {
  const OpTimer timer("column dots");
  const auto& [a, b, scale, accumulate] = dots;
  check_alike({&a, &b});
  check_same_device({&a, &out});
  const std::int64_t rows = a.dim(0), cols = a.dim(1);
  check_shape(out, Shape{cols});
  const Tensor partial = Tensor::empty(arena, MemoryTag::kWorkspace, DType::kF32,
                                       Shape{norm_chunks(rows), cols}, "column dots");
  adapter_kernels(a.device())
      .column_dots({.rows = rows,
                    .cols = cols,
                    .dtype = a.dtype(),
                    .a = a.raw(),
                    .b = b.raw(),
                    .scale = scale,
                    .partial = partial.data<float>()});
  table_of(a).fold_rows({.chunks = partial.dim(0),
                         .cols = cols,
                         .partial = partial.data<float>(),
                         .out = out.raw(),
                         .out_dtype = out.dtype(),
                         .accumulate = accumulate});
}

void squares_of_rows(const Tensor& out, const Tensor& x) {
  const OpTimer timer("squares of rows");
  check_same_device({&out, &x});
  check_dtype(x, DType::kF32);
  check_dtype(out, DType::kF32);
  check_shape(out, Shape{x.dim(0)});
  TH_CHECK(x.is_contiguous());
  adapter_kernels(x.device())
      .squares_of_rows(
          {.rows = x.dim(0), .cols = x.dim(1), .x = x.data<float>(), .out = out.data<float>()});
}

void over_root(const Tensor& out, const Tensor& m, const Tensor& squares) {
  const OpTimer timer("over root");
  check_alike({&out, &m});
  check_same_device({&m, &squares});
  check_dtype(squares, DType::kF32);
  check_shape(squares, m.shape());
  adapter_kernels(m.device())
      .over_root({.n = m.numel(),
                  .dtype = m.dtype(),
                  .m = m.raw(),
                  .squares = squares.data<float>(),
                  .out = out.raw()});
}

}  // namespace thimble::ops
