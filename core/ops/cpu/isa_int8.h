// The codes of 8-bit weights: groups of kInt8Group elements with one f32 scale each, symmetric:
// value = code * scale, codes from -127 to 127. Include only from per-instruction-set sources.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/base/dtype.h"
#include "core/ops/element_math.h"

namespace thimble::THIMBLE_ISA {

/// begin: a multiple of kInt8Group.
inline void decode_int8(const void* codes, const void* scales, std::int64_t begin, std::int64_t n,
                        float* out) {
  const auto* code = static_cast<const std::int8_t*>(codes) + begin;
  const float* scale = static_cast<const float*>(scales) + begin / kInt8Group;
  for (std::int64_t g = 0; g < n; g += kInt8Group) {
    const std::int64_t end = std::min(n, g + kInt8Group);
    const float s = scale[g / kInt8Group];
#pragma omp simd
    for (std::int64_t i = g; i < end; ++i) out[i] = static_cast<float>(code[i]) * s;
  }
}

/// Where codes of a slice and their scales go: `begin` is a multiple of kInt8Group.
struct Int8Slice {
  void* codes = nullptr;   // of the whole array
  void* scales = nullptr;  // likewise
  std::int64_t begin = 0, n = 0;
};

/// random: 16 bits per element, for stochastic rounding (an element rounds up with the probability
/// of what it lacks); null: rounds to nearest.
inline void encode_int8(const float* values, const std::uint16_t* random, const Int8Slice& to) {
  auto* code = static_cast<std::int8_t*>(to.codes) + to.begin;
  float* scale = static_cast<float*>(to.scales) + to.begin / kInt8Group;
  for (std::int64_t g = 0; g < to.n; g += kInt8Group) {
    const std::int64_t end = std::min(to.n, g + kInt8Group);
    float most = 0;
#pragma omp simd reduction(max : most)
    for (std::int64_t i = g; i < end; ++i) most = std::max(most, std::abs(values[i]));
    scale[g / kInt8Group] = most / 127.0f;
    const float divisor = int8_divisor(most);
#pragma omp simd
    for (std::int64_t i = g; i < end; ++i) {
      const float up = random == nullptr ? 0.5f : static_cast<float>(random[i]) * 0x1p-16f;
      code[i] = int8_code(values[i], divisor, up);
    }
  }
}

}  // namespace thimble::THIMBLE_ISA
