// RMSNorm by its weights or by 1 + its weights, and RoPE of whole heads or of a part of them: what
// the kernels of every family share. Include only from per-instruction-set sources.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/base/threads.h"
#include "core/ops/cpu/isa_math.h"
#include "core/ops/kernel_table.h"

namespace thimble::THIMBLE_ISA {

enum class NormFactor { kWeight, kOnePlusWeight };

template <NormFactor kFactor, typename T>
float norm_factor(const T* w) {
  return kFactor == NormFactor::kOnePlusWeight ? 1.0f + load(w) : load(w);
}

template <NormFactor kFactor, typename T>
void norm_typed(const RmsNormArgs& a) {
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
    for (std::int64_t c = 0; c < cols; ++c)
      store(y + c, load(x + c) * rstd * norm_factor<kFactor>(w + c));
  });
}

template <NormFactor kFactor, typename T>
void norm_grad_row(const RmsNormGradArgs& a, std::int64_t r, float* dw) {
  const std::int64_t cols = a.cols;
  const auto* w = static_cast<const T*>(a.w);
  const T* x = static_cast<const T*>(a.x) + r * cols;
  const T* dy = static_cast<const T*>(a.dy) + r * cols;
  T* dx = static_cast<T*>(a.dx) + r * cols;
  const float rstd = a.rstd[r];
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (std::int64_t c = 0; c < cols; ++c)
    dot += load(dy + c) * norm_factor<kFactor>(w + c) * load(x + c);
  const float mean = dot * rstd * rstd / static_cast<float>(cols);
  const auto gradient = [&](std::int64_t c) {
    return rstd * (load(dy + c) * norm_factor<kFactor>(w + c) - load(x + c) * mean);
  };
  if (a.accumulate_dx) {
#pragma omp simd
    for (std::int64_t c = 0; c < cols; ++c) store(dx + c, load(dx + c) + gradient(c));
  } else {
#pragma omp simd
    for (std::int64_t c = 0; c < cols; ++c) store(dx + c, gradient(c));
  }
  if (dw == nullptr) return;
#pragma omp simd
  for (std::int64_t c = 0; c < cols; ++c) dw[c] += load(dy + c) * load(x + c) * rstd;
}

template <NormFactor kFactor>
void norm(const RmsNormArgs& a) {
  with_float_type(
      a.dtype, [&](auto* type) { norm_typed<kFactor, std::remove_pointer_t<decltype(type)>>(a); });
}

template <NormFactor kFactor>
void norm_grad(const RmsNormGradArgs& a) {
  with_float_type(a.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const std::int64_t chunks = norm_chunks(a.rows);
    parallel_for_each(chunks, kReductionRows * a.cols, [&](std::int64_t chunk) {
      float* dw = a.partial_dw == nullptr ? nullptr : a.partial_dw + chunk * a.cols;
      if (dw != nullptr) std::fill(dw, dw + a.cols, 0.0f);
      const std::int64_t end = std::min(a.rows, (chunk + 1) * kReductionRows);
      for (std::int64_t r = chunk * kReductionRows; r < end; ++r)
        norm_grad_row<kFactor, T>(a, r, dw);
    });
  });
}

/// Rotates the first head_dim of every head_stride elements.
inline void rotate_heads(const RopeArgs& a, std::int64_t head_stride) {
  const std::int64_t half = a.head_dim / 2;
  const float sign = a.inverse ? -1.0f : 1.0f;
  with_float_type(a.dtype, [&](auto* type) {
    auto* base = static_cast<decltype(type)>(a.x);
    parallel_for_each(a.tokens, a.heads * a.head_dim, [&](std::int64_t t) {
      const float* cosine = a.table + static_cast<std::int64_t>(a.positions[t]) * a.head_dim;
      const float* sine = cosine + half;
      for (std::int64_t h = 0; h < a.heads; ++h) {
        auto* x = base + (t * a.heads + h) * head_stride;
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
