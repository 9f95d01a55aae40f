#include "optim/adamw_kernel.h"

#include <pmmintrin.h>
#include <xmmintrin.h>

#include <algorithm>
#include <cmath>

#include "core/ops/cpu/isa_math.h"

namespace thimble::THIMBLE_ISA {
namespace {

constexpr std::int64_t kChunk = 65536;

template <typename G, bool kWriteWeight>
void run(const AdamWStep& s, std::int64_t begin, std::int64_t end) {
  const G* grad = static_cast<const G*>(s.grad);
  const float c1 = 1.0f - s.beta1, c2 = 1.0f - s.beta2;
  const float before = s.decay_after ? 1.0f : s.decay;
  const float after = s.decay_after ? s.decay : 1.0f;
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) {
    const float g = load(grad + i) * s.grad_scale;
    const float m = s.beta1 * s.exp_avg[i] + c1 * g;
    const float v = s.beta2 * s.exp_avg_sq[i] + c2 * g * g;
    const float update = s.step_size * m / (std::sqrt(v) * s.inverse_sqrt_c2 + s.eps);
    const float w = (s.master[i] * before - update) * after;
    s.exp_avg[i] = m;
    s.exp_avg_sq[i] = v;
    s.master[i] = w;
    if constexpr (kWriteWeight) store(s.weight + i, w);
  }
}

}  // namespace

void adamw_step(const AdamWStep& s) {
  const std::int64_t chunks = (s.n + kChunk - 1) / kChunk;
#pragma omp parallel if (chunks > 1)
  {
    // Moments of elements without gradient decay into denormals, which are ten times slower: flush
    // them.
    const unsigned saved = _mm_getcsr();
    _MM_SET_FLUSH_ZERO_MODE(_MM_FLUSH_ZERO_ON);
    _MM_SET_DENORMALS_ZERO_MODE(_MM_DENORMALS_ZERO_ON);
#pragma omp for schedule(static)
    for (std::int64_t c = 0; c < chunks; ++c) {
      const std::int64_t begin = c * kChunk, end = std::min(s.n, begin + kChunk);
      with_float_type(s.grad_dtype, [&](auto* type) {
        using G = std::remove_pointer_t<decltype(type)>;
        if (s.weight != nullptr) {
          run<G, true>(s, begin, end);
        } else {
          run<G, false>(s, begin, end);
        }
      });
    }
    _mm_setcsr(saved);
  }
}

}  // namespace thimble::THIMBLE_ISA
