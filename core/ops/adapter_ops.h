// Front ends of the kernels of adapters, as those of ops.h.
#pragma once

#include "core/ops/ops.h"

namespace thimble::ops {

/// What scale_columns() multiplies and adds; null: nothing.
struct ColumnScaling {
  float scale = 1;
  const Tensor* by = nullptr;   // [C]
  const Tensor* add = nullptr;  // [C]
  bool accumulate = false;
};
/// out [N, C] (+)= scale * x [N, C] * by + add; out may be x.
void scale_columns(const Tensor& out, const Tensor& x, const ColumnScaling& scaling);

struct ColumnDots {
  const Tensor& a;  // [N, C]
  const Tensor& b;  // as a
  float scale = 1;
  bool accumulate = false;
};
/// out [C] (+)= scale * the sums of a * b over their rows; f32 or bf16.
void column_dots(Arena& arena, const Tensor& out, const ColumnDots& dots);

/// out f32 [m] = the sums of the squares of the rows of x f32 [m, n].
void squares_of_rows(const Tensor& out, const Tensor& x);

/// out [n] = m / sqrt(squares), squares f32.
void over_root(const Tensor& out, const Tensor& m, const Tensor& squares);

}  // namespace thimble::ops
