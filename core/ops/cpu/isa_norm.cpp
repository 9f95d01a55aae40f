// RMSNorm, RoPE and the reductions over tokens that give gradients of norms and biases.
#include "core/ops/cpu/isa_norm.h"

#include <algorithm>

#include "core/base/threads.h"
#include "core/ops/cpu/isa_declare.h"
#include "core/ops/cpu/isa_math.h"

namespace thimble::THIMBLE_ISA {

void rms_norm(const RmsNormArgs& a) {
  norm<NormFactor::kWeight>(a);
}

void rms_norm_grad(const RmsNormGradArgs& a) {
  norm_grad<NormFactor::kWeight>(a);
}

void fold_rows(const FoldRowsArgs& a) {
  with_float_type(a.out_dtype, [&](auto* type) {
    auto* o = static_cast<decltype(type)>(a.out);
    for (std::int64_t c = 0; c < a.cols; ++c) {
      float sum = a.accumulate ? load(o + c) : 0.0f;
      for (std::int64_t k = 0; k < a.chunks; ++k) sum += a.partial[k * a.cols + c];
      store(o + c, sum);
    }
  });
}

void column_sums(float* partial, const void* dy, DType dtype, std::int64_t rows,
                 std::int64_t cols) {
  with_float_type(dtype, [&](auto* type) {
    const auto* x = static_cast<const std::remove_pointer_t<decltype(type)>*>(dy);
    const std::int64_t chunks = norm_chunks(rows);
    parallel_for_each(chunks, kReductionRows * cols, [&](std::int64_t chunk) {
      float* sum = partial + chunk * cols;
      std::fill(sum, sum + cols, 0.0f);
      const std::int64_t end = std::min(rows, (chunk + 1) * kReductionRows);
      for (std::int64_t r = chunk * kReductionRows; r < end; ++r) {
#pragma omp simd
        for (std::int64_t c = 0; c < cols; ++c) sum[c] += load(x + r * cols + c);
      }
    });
  });
}

void rope(const RopeArgs& a) {
  rotate_heads(a, a.head_dim);
}

}  // namespace thimble::THIMBLE_ISA
