// Matmuls of the GPU, or of what stands for its library in the emulator, against the CPU's.
#include <array>

#include "tests/gpu/op_kernels.h"

namespace thimble {
namespace {

// A sum with an f32 result, or a matmul with a bias; both ways round each operand.
MatmulSpec matmul_spec(const std::array<int, 3>& size, DType dtype, int flags) {
  const auto [m, n, k] = size;
  const bool trans_a = flags & 1, trans_b = flags & 2, accumulate = flags & 4;
  return {.m = m,
          .n = n,
          .k = k,
          .a = dtype,
          .b = dtype,
          .c = accumulate ? DType::kF32 : dtype,
          .trans_a = trans_a,
          .trans_b = trans_b,
          .lda = trans_a ? m : k,
          .ldb = trans_b ? k : n,
          .ldc = n,
          .accumulate = accumulate,
          .bias = !accumulate};
}

class GpuMatmuls : public GpuOpKernels {
 protected:
  // The fields of the kernel table for one kind of matmul.
  template <typename Spec>
  struct Fields {
    std::int64_t (*KernelTable::*workspace_bytes)(const Spec&);
    Kernel<void(const Spec&, const MatmulArgs&)> KernelTable::*multiply;
  };
  template <typename Spec>
  void expect_like_the_cpu(const MatmulSpec& matmul, const Spec& spec, float size_a, float size_b,
                           const Fields<Spec>& fields) {
    const Tensor a = random(Shape{matmul.m, matmul.k}, 1, size_a),
                 b = random(Shape{matmul.k, matmul.n}, 2, size_b),
                 bias = random(Shape{matmul.n}, 3);
    Tensor c[2];
    for (int side = 0; side < 2; ++side) {
      const bool gpu = side == 1;
      c[side] = random(Shape{matmul.m, matmul.n}, 4, 1.0f, matmul.c);
      const Tensor scratch = empty(Shape{(table(gpu).*fields.workspace_bytes)(spec)}, DType::kU8);
      (table(gpu).*fields.multiply)(spec, {.a = at(gpu, a),
                                           .b = at(gpu, b),
                                           .c = at(gpu, c[side]),
                                           .bias = matmul.bias ? at(gpu, bias) : nullptr,
                                           .workspace = at(gpu, scratch)});
      if (gpu) gpu_.fetch();
    }
    expect_near(c[1], c[0], "matmul");
  }
};

TEST_P(GpuMatmuls, Matmuls) {
  for (const auto& size : {std::array{1, 1, 1}, std::array{5, 7, 3}, std::array{64, 40, 96}}) {
    for (int flags = 0; flags < 8; ++flags) {
      const MatmulSpec spec = matmul_spec(size, GetParam(), flags);
      expect_like_the_cpu<MatmulSpec>(spec, spec, 1, 1,
                                      {&KernelTable::matmul_workspace_bytes, &KernelTable::matmul});
    }
  }
}

class GpuFp8Matmuls : public GpuMatmuls {};  // of bf16 alone

TEST_P(GpuFp8Matmuls, MatmulsInEightBits) {
  for (const auto& size : {std::array{16, 16, 16}, std::array{48, 80, 144}}) {
    for (int flags = 0; flags < 8; ++flags) {
      const MatmulSpec matmul = matmul_spec(size, GetParam(), flags);
      const Fp8MatmulSpec spec{.matmul = matmul,
                               .a = matmul.trans_a ? Fp8Format::kE5M2 : Fp8Format::kE4M3};
      expect_like_the_cpu<Fp8MatmulSpec>(
          matmul, spec, 1e-3f, 300,
          {&KernelTable::fp8_matmul_workspace_bytes, &KernelTable::fp8_matmul});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, GpuMatmuls, testing::Values(DType::kF32, DType::kBF16));
INSTANTIATE_TEST_SUITE_P(DTypes, GpuFp8Matmuls, testing::Values(DType::kBF16));

}  // namespace
}  // namespace thimble
