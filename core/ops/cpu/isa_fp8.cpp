// The rounding to 8-bit formats that a matmul in 8 bits needs; a CPU multiplies the rounded values
// as bf16.
#include <algorithm>
#include <atomic>

#include "core/base/threads.h"
#include "core/ops/cpu/isa_declare.h"
#include "core/ops/cpu/isa_math.h"
#include "core/ops/fp8_math.h"

namespace thimble::THIMBLE_ISA {

float fp8_most(const void* x, DType dtype, std::int64_t n) {
  std::atomic<float> most = 0;
  with_float_type(dtype, [&](auto* type) {
    const auto* values = static_cast<const std::remove_pointer_t<decltype(type)>*>(x);
    parallel_for(n, 1, [&](std::int64_t begin, std::int64_t end) {
      float own = 0;
#pragma omp simd reduction(max : own)
      for (std::int64_t i = begin; i < end; ++i)
        own = std::max(own, fp8_magnitude(load(values + i)));
      for (float seen = most; seen < own && !most.compare_exchange_weak(seen, own);) {
      }
    });
  });
  return most;
}

void fp8_round_to(const Fp8RoundArgs& a) {
  auto* out = static_cast<BF16*>(a.dst);
  const float scale = a.scale, inverse = 1.0f / scale;
  const Fp8Format format = a.format;
  with_float_type(a.dtype, [&](auto* type) {
    const auto* values = static_cast<const std::remove_pointer_t<decltype(type)>*>(a.x);
    parallel_for(a.n, 1, [&](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i)
        store(out + i, fp8_round(load(values + i) * inverse, format) * scale);
    });
  });
}

}  // namespace thimble::THIMBLE_ISA
