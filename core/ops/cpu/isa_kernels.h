// The CPU kernels that are compiled once per instruction set; cpu_kernels.cpp picks one set at run
// time.
#pragma once

#include "core/ops/kernel_table.h"

namespace thimble {

/// One tile of attention scores, row i of the tile being query `query0 + i` of its row of tokens.
struct SoftmaxTile {
  std::int64_t rows = 0, cols = 0, stride = 0;  // scores [rows, cols], f32
  float* scores = nullptr;
  float scale = 1;
  const std::int32_t* first_key =
      nullptr;  // per row, first visible column of this tile (may be < 0)
  const std::int32_t* end_key =
      nullptr;  // per row, one past the last visible column (may be > cols)
};

/// Functions of one instruction set.
struct IsaKernels {
  void (*cast)(void*, DType, const void*, DType, std::int64_t);
  void (*dequantize)(void*, DType, const void*, const float*, std::int64_t);
  void (*quantize)(void*, float*, const float*, std::int64_t);
  void (*accumulate)(void*, DType, const void*, DType, std::int64_t);
  void (*add)(void*, const void*, const void*, DType, std::int64_t);
  void (*transpose)(void*, const void*, std::int64_t, std::int64_t, std::int64_t);
  void (*row_squares)(double*, const void*, DType, std::int64_t, std::int64_t);
  void (*sum_in_order)(void*, DType, const void* const*, int, DType, std::int64_t, bool);
  void (*embedding_grad)(void*, DType, const void*, DType, const std::int32_t*, const std::int32_t*,
                         std::int64_t, std::int64_t);
  void (*rms_norm)(const RmsNormArgs&);
  void (*rms_norm_grad)(const RmsNormGradArgs&);
  void (*fold_rows)(void*, DType, const float*, std::int64_t, std::int64_t, bool);
  void (*column_sums)(float*, const void*, DType, std::int64_t, std::int64_t);
  void (*rope)(const RopeArgs&);
  void (*swiglu)(void*, const void*, const void*, DType, std::int64_t);
  void (*swiglu_grad)(void*, void*, const void*, const void*, const void*, DType, std::int64_t);
  void (*cross_entropy)(const CrossEntropyArgs&);

  /// Softmax of a tile with running maximum and sum; writes unnormalised probabilities in `p_dtype`
  /// (stride cols of the tile), updates max_i and sum_i, and gives the factor by which earlier
  /// output rows shrink.
  void (*softmax_tile)(const SoftmaxTile&, float* max, float* sum, float* shrink, void* p,
                       DType p_dtype);
  /// p = exp(scores * scale - lse), ds = p * (dp - delta) * scale for one tile; zero where not
  /// visible.
  void (*softmax_grad_tile)(const SoftmaxTile&, const float* lse, const float* delta,
                            const float* dp, void* p, void* ds, DType dtype);
  /// The largest magnitude of an array, infinity if something is not finite; the scale for it (see
  /// fp8_math.h); x rounded to the format's values times `scale`, as bf16.
  float (*fp8_most)(const void* x, DType dtype, std::int64_t n);
  float (*fp8_scale)(float most, Fp8Format format);
  void (*fp8_round_to)(void* dst, const void* x, DType dtype, std::int64_t n, float scale,
                       Fp8Format format);
  /// Row dot products: out[i] = sum_j a[i,j] * b[i,j] over rows of `cols`.
  void (*row_dots)(float* out, const void* a, const void* b, DType dtype, std::int64_t rows,
                   std::int64_t cols, std::int64_t stride);
};

namespace avx2 {
const IsaKernels& isa_kernels();
}
namespace avx512 {
const IsaKernels& isa_kernels();
}

/// The set in use, chosen once from the CPU and THIMBLE_ISA.
const IsaKernels& isa_kernels();
/// True if oneDNN multiplies bf16 natively under the instruction set in use.
bool has_native_bf16();

}  // namespace thimble
