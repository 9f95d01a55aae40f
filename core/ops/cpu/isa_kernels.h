// The CPU kernels that are compiled once per instruction set; cpu_kernels.cpp picks one set at run
// time.
#pragma once

#include "core/ops/cpu/matmul_kernel.h"
#include "core/ops/kernel_table.h"

namespace thimble {

/// One tile of attention scores. Row i of the tile is query `query0 + i` of its sequence.
struct SoftmaxTile {
  std::int64_t rows = 0, cols = 0, stride = 0;  // scores [rows, cols], f32
  float* scores = nullptr;
  float scale = 1;
  float softcap = 0;                        // as in AttentionSpec
  const std::int32_t* first_key = nullptr;  // per row: first visible column; may be < 0
  const std::int32_t* end_key =
      nullptr;  // per row: one past the last visible column; may be > cols
};

/// The running softmax of a tile's rows: probabilities p (stride cols of the tile) are not
/// normalised, max and sum are updated, and `shrink` is the factor by which earlier output rows
/// shrink.
struct SoftmaxState {
  float* max = nullptr;
  float* sum = nullptr;
  float* shrink = nullptr;
  void* p = nullptr;
  DType p_dtype = DType::kF32;
};

/// The backward pass of a tile: p = exp(scores * scale - lse), ds = p * (dp - delta) * scale; both
/// are 0 where a key is not visible. With a softcap c, c tanh(scores * scale / c) takes the place
/// of scores * scale, and ds has its slope as a factor.
struct SoftmaxGrad {
  const float* lse = nullptr;    // per row
  const float* delta = nullptr;  // per row
  const float* dp = nullptr;     // f32, laid out as the scores
  void* p = nullptr;
  void* ds = nullptr;
  DType dtype = DType::kF32;  // of p and ds
};

/// out[i] = sum_j a[i, j] * b[i, j] over rows of `cols`.
struct RowDotsArgs {
  std::int64_t rows = 0, cols = 0, stride = 0;
  DType dtype = DType::kF32;
  const void* a = nullptr;
  const void* b = nullptr;
  float* out = nullptr;
};

/// dst (bf16) = x rounded to the values of an 8-bit format times `scale`.
struct Fp8RoundArgs {
  std::int64_t n = 0;
  DType dtype = DType::kF32;
  const void* x = nullptr;
  float scale = 1;
  Fp8Format format = Fp8Format::kE4M3;
  void* dst = nullptr;
};

// clang-format off

/// What kernels that are compiled once need of an instruction set.
///   fp8_most      the largest magnitude of an array, infinity if something is not finite
///   fp8_scale     the scale for it (see fp8_math.h)
#define THIMBLE_ISA_PARTS(PART) \
  PART(void, softmax_tile, const SoftmaxTile& tile, const SoftmaxState& state) \
  PART(void, softmax_grad_tile, const SoftmaxTile& tile, const SoftmaxGrad& grad) \
  PART(void, row_dots, const RowDotsArgs& args) \
  PART(float, fp8_most, const void* x, DType dtype, std::int64_t n) \
  PART(float, fp8_scale, float most, Fp8Format format) \
  PART(void, fp8_round_to, const Fp8RoundArgs& args)

/// Functions of one instruction set: the kernels of THIMBLE_ISA_KERNELS and the parts above.
struct IsaKernels {
#define THIMBLE_FIELD(kernel, ...) void (*kernel)(__VA_ARGS__) = nullptr;
  THIMBLE_ISA_KERNELS(THIMBLE_FIELD)
#undef THIMBLE_FIELD
#define THIMBLE_FIELD(result, part, ...) result (*part)(__VA_ARGS__) = nullptr;
  THIMBLE_ISA_PARTS(THIMBLE_FIELD)
#undef THIMBLE_FIELD
};

// clang-format on

namespace avx2 {
const IsaKernels& isa_kernels();
}
namespace avx512 {
const IsaKernels& isa_kernels();
}

/// The set in use, chosen once from the CPU and THIMBLE_ISA.
const IsaKernels& isa_kernels();
/// The kernel of a path under the instruction set in use; null if the CPU lacks it.
const MatmulKernel* matmul_kernel(MatmulPath path);
/// True if oneDNN multiplies bf16 natively under the instruction set in use.
bool has_native_bf16();
/// True if oneDNN multiplies bf16 by AMX tiles under the instruction set in use.
bool has_amx_bf16();

}  // namespace thimble
