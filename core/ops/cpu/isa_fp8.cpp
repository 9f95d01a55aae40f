// What a product in 8 bits needs of a CPU, which multiplies the rounded values as bf16.
#include <algorithm>

#include "core/base/threads.h"
#include "core/ops/cpu/isa_declare.h"
#include "core/ops/cpu/isa_math.h"
#include "core/ops/fp8_math.h"

namespace thimble::THIMBLE_ISA {

float fp8_most(const void* x, DType dtype, std::int64_t n) {
  float most = 0;
  with_float_type(dtype, [&](auto* type) {
    const auto* values = static_cast<const std::remove_pointer_t<decltype(type)>*>(x);
#pragma omp parallel for simd schedule(static) reduction(max : most) if (parallel : is_team_work(n))
    for (std::int64_t i = 0; i < n; ++i) most = std::max(most, fp8_magnitude(load(values + i)));
  });
  return most;
}

void fp8_round_to(void* dst, const void* x, DType dtype, std::int64_t n, float scale,
                  Fp8Format format) {
  auto* out = static_cast<BF16*>(dst);
  const float inverse = 1.0f / scale;
  with_float_type(dtype, [&](auto* type) {
    const auto* values = static_cast<const std::remove_pointer_t<decltype(type)>*>(x);
#pragma omp parallel for simd schedule(static) if (parallel : is_team_work(n))
    for (std::int64_t i = 0; i < n; ++i)
      store(out + i, fp8_round(load(values + i) * inverse, format) * scale);
  });
}

}  // namespace thimble::THIMBLE_ISA
