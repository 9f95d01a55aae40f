// Matrix products of the GPU, or of what stands for its library in the emulator, against the CPU's.
#include <array>

#include "tests/gpu/op_kernels.h"

namespace thimble {
namespace {

using GpuProducts = GpuOpKernels;

TEST_P(GpuProducts, MatrixProducts) {
  for (const auto& [m, n, k] : {std::array{1, 1, 1}, std::array{5, 7, 3}, std::array{64, 40, 96}}) {
    for (const bool trans_a : {false, true}) {
      for (const bool trans_b : {false, true}) {
        for (const bool accumulate : {false, true}) {
          MatmulSpec spec{.m = m,
                          .n = n,
                          .k = k,
                          .a = GetParam(),
                          .b = GetParam(),
                          .c = accumulate ? DType::kF32 : GetParam(),
                          .trans_a = trans_a,
                          .trans_b = trans_b,
                          .lda = trans_a ? m : k,
                          .ldb = trans_b ? k : n,
                          .ldc = n,
                          .accumulate = accumulate,
                          .bias = !accumulate};
          const Tensor a = random(Shape{m, k}, 1), b = random(Shape{k, n}, 2),
                       bias = random(Shape{n}, 3);
          Tensor c[2];
          for (int side = 0; side < 2; ++side) {
            const bool gpu = side == 1;
            c[side] = random(Shape{m, n}, 4, 1.0f, spec.c);
            const std::int64_t bytes =
                (gpu ? cuda::matmul_workspace_bytes : cpu().matmul_workspace_bytes)(spec);
            const Tensor scratch = empty(Shape{bytes}, DType::kU8);
            (gpu ? cuda::matmul : cpu().matmul)(spec, {.a = at(gpu, a),
                                                       .b = at(gpu, b),
                                                       .c = at(gpu, c[side]),
                                                       .bias = spec.bias ? at(gpu, bias) : nullptr,
                                                       .workspace = at(gpu, scratch)});
            if (gpu) gpu_.fetch();
          }
          expect_near(c[1], c[0], "product");
        }
      }
    }
  }
}

TEST_P(GpuProducts, ProductsInEightBits) {
  if (GetParam() != DType::kBF16) return;
  for (const auto& [m, n, k] : {std::array{16, 16, 16}, std::array{48, 80, 144}}) {
    for (int flags = 0; flags < 8; ++flags) {
      const bool trans_a = flags & 1, trans_b = flags & 2, accumulate = flags & 4;
      const Fp8MatmulSpec spec{.product = {.m = m,
                                           .n = n,
                                           .k = k,
                                           .a = DType::kBF16,
                                           .b = DType::kBF16,
                                           .c = accumulate ? DType::kF32 : DType::kBF16,
                                           .trans_a = trans_a,
                                           .trans_b = trans_b,
                                           .lda = trans_a ? m : k,
                                           .ldb = trans_b ? k : n,
                                           .ldc = n,
                                           .accumulate = accumulate,
                                           .bias = !accumulate},
                               .a = trans_a ? Fp8Format::kE5M2 : Fp8Format::kE4M3};
      const Tensor a = random(Shape{m, k}, 1, 1e-3f), b = random(Shape{k, n}, 2, 300.0f),
                   bias = random(Shape{n}, 3);
      Tensor c[2];
      for (int side = 0; side < 2; ++side) {
        const bool gpu = side == 1;
        c[side] = random(Shape{m, n}, 4, 1.0f, spec.product.c);
        const std::int64_t bytes =
            (gpu ? cuda::fp8_matmul_workspace_bytes : cpu().fp8_matmul_workspace_bytes)(spec);
        const Tensor scratch = empty(Shape{bytes}, DType::kU8);
        (gpu ? cuda::fp8_matmul : cpu().fp8_matmul)(
            spec, {.a = at(gpu, a),
                   .b = at(gpu, b),
                   .c = at(gpu, c[side]),
                   .bias = spec.product.bias ? at(gpu, bias) : nullptr,
                   .workspace = at(gpu, scratch)});
        if (gpu) gpu_.fetch();
      }
      expect_near(c[1], c[0], "product");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, GpuProducts, testing::Values(DType::kF32, DType::kBF16));

}  // namespace
}  // namespace thimble
