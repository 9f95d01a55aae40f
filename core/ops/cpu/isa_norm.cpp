// RMSNorm, RoPE and the reductions over tokens that give gradients of norms and biases.
#include <algorithm>
#include <cmath>

#include "core/base/threads.h"
#include "core/ops/cpu/isa_declare.h"
#include "core/ops/cpu/isa_math.h"

namespace thimble::THIMBLE_ISA {
namespace {

template <typename T>
void rms_norm_typed(const RmsNormArgs& a) {
  const auto* w = static_cast<const T*>(a.w);
  const std::int64_t cols = a.cols;
  parallel_for_each(a.rows, cols, [&](std::int64_t r) {
    const T* x = static_cast<const T*>(a.x) + r * cols;
    T* y = static_cast<T*>(a.y) + r * cols;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t c = 0; c < cols; ++c) sum += load(x + c) * load(x + c);
    const float rstd = 1.0f / std::sqrt(sum / static_cast<float>(cols) + a.eps);
    a.rstd[r] = rstd;
#pragma omp simd
    for (std::int64_t c = 0; c < cols; ++c) store(y + c, load(x + c) * rstd * load(w + c));
  });
}

template <typename T>
void rms_norm_grad_row(const RmsNormGradArgs& a, std::int64_t r, float* dw) {
  const std::int64_t cols = a.cols;
  const auto* w = static_cast<const T*>(a.w);
  const T* x = static_cast<const T*>(a.x) + r * cols;
  const T* dy = static_cast<const T*>(a.dy) + r * cols;
  T* dx = static_cast<T*>(a.dx) + r * cols;
  const float rstd = a.rstd[r];
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (std::int64_t c = 0; c < cols; ++c) dot += load(dy + c) * load(w + c) * load(x + c);
  const float mean = dot * rstd * rstd / static_cast<float>(cols);
  if (a.accumulate_dx) {
#pragma omp simd
    for (std::int64_t c = 0; c < cols; ++c) {
      store(dx + c, load(dx + c) + rstd * (load(dy + c) * load(w + c) - load(x + c) * mean));
    }
  } else {
#pragma omp simd
    for (std::int64_t c = 0; c < cols; ++c) {
      store(dx + c, rstd * (load(dy + c) * load(w + c) - load(x + c) * mean));
    }
  }
  if (dw == nullptr) return;
#pragma omp simd
  for (std::int64_t c = 0; c < cols; ++c) dw[c] += load(dy + c) * load(x + c) * rstd;
}

}  // namespace

void rms_norm(const RmsNormArgs& a) {
  with_float_type(a.dtype,
                  [&](auto* type) { rms_norm_typed<std::remove_pointer_t<decltype(type)>>(a); });
}

void rms_norm_grad(const RmsNormGradArgs& a) {
  with_float_type(a.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const std::int64_t chunks = norm_chunks(a.rows);
    parallel_for_each(chunks, kReductionRows * a.cols, [&](std::int64_t chunk) {
      float* dw = a.partial_dw == nullptr ? nullptr : a.partial_dw + chunk * a.cols;
      if (dw != nullptr) std::fill(dw, dw + a.cols, 0.0f);
      const std::int64_t end = std::min(a.rows, (chunk + 1) * kReductionRows);
      for (std::int64_t r = chunk * kReductionRows; r < end; ++r) rms_norm_grad_row<T>(a, r, dw);
    });
  });
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
  const std::int64_t half = a.head_dim / 2;
  const float sign = a.inverse ? -1.0f : 1.0f;
  with_float_type(a.dtype, [&](auto* type) {
    auto* base = static_cast<decltype(type)>(a.x);
    parallel_for_each(a.tokens, a.heads * a.head_dim, [&](std::int64_t t) {
      const float* cosine = a.table + static_cast<std::int64_t>(a.positions[t]) * a.head_dim;
      const float* sine = cosine + half;
      for (std::int64_t h = 0; h < a.heads; ++h) {
        auto* x = base + (t * a.heads + h) * a.head_dim;
#pragma omp simd
        for (std::int64_t i = 0; i < half; ++i) {
          float first = load(x + i), second = load(x + half + i);
          rotate_pair(cosine[i], sign * sine[i], first, second);
          store(x + i, first);
          store(x + half + i, second);
        }
      }
    });
  });
}

}  // namespace thimble::THIMBLE_ISA
