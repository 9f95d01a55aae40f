// Arithmetic shared by the per-instruction-set kernels. Everything lives in the namespace of the
// instruction set, so that no function compiled for AVX-512 can be linked into the AVX2 path.
#pragma once

#include <bit>
#include <cstdint>

#include "core/base/dtype.h"

namespace thimble::THIMBLE_ISA {

/// e^x for x <= 88; 2 ulp. Below -87 the result is e^-87 (about 1e-38), NaN stays NaN.
inline float fast_exp(float x) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted =
      x * kLog2E + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are round(x / ln 2)
  const float n = shifted - 12582912.0f;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const std::int32_t exponent = std::bit_cast<std::int32_t>(shifted) - 0x4B400000;
  return p * std::bit_cast<float>((exponent + 127) << 23);
}

inline float fast_sigmoid(float x) {
  return 1.0f / (1.0f + fast_exp(-x));
}

inline float load(const float* p) {
  return *p;
}
inline float load(const BF16* p) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(p->bits) << 16);
}
inline void store(float* p, float value) {
  *p = value;
}
inline void store(BF16* p, float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t quiet_nan = (bits >> 16) | 0x40u;
  p->bits = static_cast<std::uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet_nan : rounded);
}

/// Calls f with a null pointer of the element type, to choose a template by dtype (f32 or bf16
/// only).
template <typename F>
void with_float_type(DType dtype, F&& f) {
  if (dtype == DType::kBF16) {
    f(static_cast<BF16*>(nullptr));
  } else {
    f(static_cast<float*>(nullptr));
  }
}

}  // namespace thimble::THIMBLE_ISA
