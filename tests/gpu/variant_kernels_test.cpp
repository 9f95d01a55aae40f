// The GPU's kernels that only some families need against the CPU's, as op_kernels_test.cpp has the
// others.
#include <gtest/gtest.h>

#include "core/ops/cuda/variants.h"
#include "tests/gpu/op_kernels.h"

namespace thimble {
namespace {

const VariantKernels& variant_table(bool gpu) {
  return gpu ? cuda::variant_kernel_table() : variant_kernels(Device{});
}

TEST_P(GpuOpKernels, ScaledAndGated) {
  for (const std::int64_t n : {1, 7, 128, 1001}) {
    const Shape shape{n};
    const Tensor a = random(shape, 1), b = random(shape, 2), c = random(shape, 3);
    Tensor scaled[2], capped[2], gated[2], d_gate[2], d_up[2];
    for (const bool gpu : {false, true}) {
      const int side = gpu ? 1 : 0;
      for (Tensor* each : {&scaled[side], &capped[side], &gated[side], &d_gate[side], &d_up[side]})
        *each = random(shape, 9);
      const VariantKernels& kernels = variant_table(gpu);
      kernels.scale({.n = n,
                     .dtype = GetParam(),
                     .factor = 0.22f,
                     .x = at(gpu, a),
                     .out = at(gpu, scaled[side])});
      kernels.soft_cap({.n = n,
                        .dtype = GetParam(),
                        .factor = 1.5f,
                        .x = at(gpu, a),
                        .out = at(gpu, capped[side])});
      kernels.geglu({.n = n,
                     .dtype = GetParam(),
                     .in = {at(gpu, a), at(gpu, b)},
                     .out = at(gpu, gated[side])});
      kernels.geglu_grad({.n = n,
                          .dtype = GetParam(),
                          .dout = at(gpu, c),
                          .gate = at(gpu, a),
                          .up = at(gpu, b),
                          .dgate = at(gpu, d_gate[side]),
                          .dup = at(gpu, d_up[side])});
      if (gpu) gpu_.fetch();
    }
    expect_same(scaled[1], scaled[0], "scaled");
    expect_near(capped[1], capped[0], "capped");
    expect_near(gated[1], gated[0], "geglu");
    expect_near(d_gate[1], d_gate[0], "geglu gate gradient");
    expect_near(d_up[1], d_up[0], "geglu up gradient");
  }
}

TEST_P(GpuOpKernels, NormsByOnePlusWeight) {
  const std::int64_t rows = 130;
  for (const std::int64_t cols : {24, 37, 520}) {
    const Tensor x = random(Shape{rows, cols}, 1), w = random(Shape{cols}, 2),
                 dy = random(Shape{rows, cols}, 3);
    Tensor out[2], rstd[2], dx[2], partial[2];
    for (const bool gpu : {false, true}) {
      const int side = gpu ? 1 : 0;
      out[side] = empty(x.shape());
      rstd[side] = empty(Shape{rows}, DType::kF32);
      dx[side] = random(x.shape(), 4);
      partial[side] = empty(Shape{norm_chunks(rows), cols}, DType::kF32);
      variant_table(gpu).unit_rms_norm({.rows = rows,
                                        .cols = cols,
                                        .dtype = GetParam(),
                                        .eps = 1e-5f,
                                        .x = at(gpu, x),
                                        .w = at(gpu, w),
                                        .y = at(gpu, out[side]),
                                        .rstd = at<float>(gpu, rstd[side])});
      variant_table(gpu).unit_rms_norm_grad({.rows = rows,
                                             .cols = cols,
                                             .dtype = GetParam(),
                                             .x = at(gpu, x),
                                             .w = at(gpu, w),
                                             .rstd = at<float>(gpu, rstd[side]),
                                             .dy = at(gpu, dy),
                                             .dx = at(gpu, dx[side]),
                                             .accumulate_dx = true,
                                             .partial_dw = at<float>(gpu, partial[side])});
      if (gpu) gpu_.fetch();
    }
    expect_near(out[1], out[0], "norm");
    expect_near(dx[1], dx[0], "norm gradient");
    expect_near(partial[1], partial[0], "weight gradient in parts");
  }
}

TEST_P(GpuOpKernels, RotatesAPartOfEachHead) {
  const std::int64_t tokens = 9, heads = 3, head = 10, rotated = 6;
  const Tensor table = random(Shape{16, rotated}, 1, 1.0f, DType::kF32);
  const Tensor positions = ints({3, 0, 15, 7, 7, 1, 2, 9, 4});
  for (const bool inverse : {false, true}) {
    Tensor x[2];
    for (const bool gpu : {false, true}) {
      x[gpu ? 1 : 0] = random(Shape{tokens, heads * head}, 2);
      variant_table(gpu).partial_rope({.tokens = tokens,
                                       .heads = heads,
                                       .head_dim = rotated,
                                       .dtype = GetParam(),
                                       .table = at<float>(gpu, table),
                                       .positions = at<std::int32_t>(gpu, positions),
                                       .inverse = inverse,
                                       .x = at(gpu, x[gpu ? 1 : 0])},
                                      head);
      if (gpu) gpu_.fetch();
    }
    expect_near(x[1], x[0], "rotated");
  }
}

}  // namespace
}  // namespace thimble
