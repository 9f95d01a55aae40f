// Softmax in its three uses: cross-entropy over a chunk of logits, attention tiles forward and
// backward.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/base/threads.h"
#include "core/ops/cpu/isa_declare.h"
#include "core/ops/cpu/isa_math.h"

namespace thimble::THIMBLE_ISA {
namespace {

float row_max(const float* x, std::int64_t n) {
  float top = -HUGE_VALF;
#pragma omp simd reduction(max : top)
  for (std::int64_t i = 0; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

// x becomes exp(x - top); returns the sum.
float exp_row(float* x, std::int64_t n, float top) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) {
    x[i] = fast_exp(x[i] - top);
    sum += x[i];
  }
  return sum;
}

// Writes n scaled floats densely from `row` on, as bf16; a block is read before it is overwritten.
void store_bf16_in_place(float* row, std::int64_t n, float factor) {
  constexpr std::int64_t kBlock = 64;
  std::array<BF16, kBlock> block;
  auto* out = reinterpret_cast<char*>(row);
  for (std::int64_t i = 0; i < n; i += kBlock) {
    const std::int64_t m = std::min(kBlock, n - i);
#pragma omp simd
    for (std::int64_t j = 0; j < m; ++j)
      store(&block[static_cast<std::size_t>(j)], row[i + j] * factor);
    std::memcpy(out + 2 * i, block.data(), static_cast<std::size_t>(2 * m));
  }
}

// x becomes cap * tanh(x * scale / cap).
void cap_row(float* x, std::int64_t n, float scale, float cap) {
  const float inner = scale / cap;
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) x[i] = cap * fast_tanh(x[i] * inner);
}

float exp_sum(const float* x, std::int64_t n, float top) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += fast_exp(x[i] - top);
  return sum;
}

// x, capped values, becomes exp(x - top) times the derivative of x by what was capped.
void exp_of_capped(float* x, std::int64_t n, float top, float cap) {
  const float inverse = 1.0f / cap;
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float ratio = x[i] * inverse;
    x[i] = fast_exp(x[i] - top) * (1.0f - ratio * ratio);
  }
}

void cross_entropy_row(const CrossEntropyArgs& a, std::int64_t r) {
  float* row = a.logits + r * a.vocab;
  const float weight = a.weights[r];
  if (weight == 0.0f) {
    a.losses[r] = 0.0f;
    if (a.want_grad)
      std::memset(row, 0, static_cast<std::size_t>(a.vocab * dtype_size(a.grad_dtype)));
    return;
  }
  const bool capped = a.softcap > 0.0f;
  if (capped) cap_row(row, a.vocab, 1.0f, a.softcap);
  const float top = row_max(row, a.vocab);
  const float target_logit = row[a.targets[r]];
  const float sum = capped ? exp_sum(row, a.vocab, top) : exp_row(row, a.vocab, top);
  a.losses[r] = std::log(sum) + top - target_logit;
  if (!a.want_grad) return;
  const float factor = weight * a.grad_scale / sum;
  // The target's own gradient is (p - 1) w s = (e - sum) * factor.
  if (capped) {
    const float ratio = target_logit / a.softcap;
    exp_of_capped(row, a.vocab, top, a.softcap);
    row[a.targets[r]] -= sum * (1.0f - ratio * ratio);
  } else {
    row[a.targets[r]] -= sum;
  }
  if (a.grad_dtype == DType::kBF16) {
    store_bf16_in_place(row, a.vocab, factor);
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < a.vocab; ++i) row[i] *= factor;
  }
}

}  // namespace

void cross_entropy(const CrossEntropyArgs& a) {
  constexpr std::int64_t kExpCost = 8;  // an exponential beside reading a value
  parallel_for_each(a.rows, a.vocab * kExpCost, [&](std::int64_t r) { cross_entropy_row(a, r); });
}

void softmax_tile(const SoftmaxTile& t, const SoftmaxState& state) {
  const float scale = t.softcap > 0.0f ? 1.0f : t.scale;  // a capped score has been scaled
  with_float_type(state.p_dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (std::int64_t i = 0; i < t.rows; ++i) {
      float* s = t.scores + i * t.stride;
      T* out = static_cast<T*>(state.p) + i * t.stride;
      const std::int64_t lo = std::clamp<std::int64_t>(t.first_key[i], 0, t.cols);
      const std::int64_t hi = std::clamp<std::int64_t>(t.end_key[i], lo, t.cols);
      state.shrink[i] = 1.0f;
      if (t.softcap > 0.0f) cap_row(s + lo, hi - lo, t.scale, t.softcap);
      if (lo < hi) {
        const float top = std::max(state.max[i], row_max(s + lo, hi - lo) * scale);
        state.shrink[i] = fast_exp(state.max[i] - top);
        state.max[i] = top;
        float total = 0;
#pragma omp simd reduction(+ : total)
        for (std::int64_t j = lo; j < hi; ++j) {
          const float e = fast_exp(s[j] * scale - top);
          total += e;
          store(out + j, e);
        }
        state.sum[i] = state.sum[i] * state.shrink[i] + total;
      }
      std::memset(static_cast<void*>(out), 0, static_cast<std::size_t>(lo) * sizeof(T));
      std::memset(static_cast<void*>(out + hi), 0,
                  static_cast<std::size_t>(t.cols - hi) * sizeof(T));
    }
  });
}

void softmax_grad_tile(const SoftmaxTile& t, const SoftmaxGrad& g) {
  with_float_type(g.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (std::int64_t i = 0; i < t.rows; ++i) {
      float* s = t.scores + i * t.stride;
      const float* dpr = g.dp + i * t.stride;
      T* pr = static_cast<T*>(g.p) + i * t.stride;
      T* dsr = static_cast<T*>(g.ds) + i * t.stride;
      const std::int64_t lo = std::clamp<std::int64_t>(t.first_key[i], 0, t.cols);
      const std::int64_t hi = std::clamp<std::int64_t>(t.end_key[i], lo, t.cols);
      const float l = g.lse[i], d = g.delta[i];
      if (t.softcap > 0.0f) {
        cap_row(s + lo, hi - lo, t.scale, t.softcap);
        const float inverse = 1.0f / t.softcap;
#pragma omp simd
        for (std::int64_t j = lo; j < hi; ++j) {
          const float e = fast_exp(s[j] - l), ratio = s[j] * inverse;
          store(pr + j, e);
          store(dsr + j, e * (dpr[j] - d) * (1.0f - ratio * ratio) * t.scale);
        }
      } else {
#pragma omp simd
        for (std::int64_t j = lo; j < hi; ++j) {
          const float e = fast_exp(s[j] * t.scale - l);
          store(pr + j, e);
          store(dsr + j, e * (dpr[j] - d) * t.scale);
        }
      }
      for (T* row : {pr, dsr}) {
        std::memset(static_cast<void*>(row), 0, static_cast<std::size_t>(lo) * sizeof(T));
        std::memset(static_cast<void*>(row + hi), 0,
                    static_cast<std::size_t>(t.cols - hi) * sizeof(T));
      }
    }
  });
}

void row_dots(const RowDotsArgs& a) {
  with_float_type(a.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const std::int64_t cols = a.cols;
    for (std::int64_t i = 0; i < a.rows; ++i) {
      const T* x = static_cast<const T*>(a.a) + i * a.stride;
      const T* y = static_cast<const T*>(a.b) + i * a.stride;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t j = 0; j < cols; ++j) sum += load(x + j) * load(y + j);
      a.out[i] = sum;
    }
  });
}

}  // namespace thimble::THIMBLE_ISA
