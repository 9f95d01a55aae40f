// The arithmetic of ops, element by element: one source for every instruction set and for GPUs,
// each compiled in a namespace of its own, so that no function compiled for AVX-512 can be linked
// into the AVX2 path. Include only from per-instruction-set sources.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "core/base/dtype.h"
#include "core/base/host_device.h"

namespace thimble::THIMBLE_ISA {

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

/// e^x for x <= 88; 2 ulp. Below -87 the result is e^-87 (about 1e-38), NaN stays NaN.
TH_HOST_DEVICE inline float fast_exp(float x) {
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

TH_HOST_DEVICE inline float fast_sigmoid(float x) {
  return 1.0f / (1.0f + fast_exp(-x));
}

/// tanh to 4 ulp: a polynomial that was fitted to it near 0, where 1 - 2 / (e^2x + 1) loses digits.
TH_HOST_DEVICE inline float fast_tanh(float x) {
  const float z = x * x;
  float p = -5.7040348e-3f;
  p = p * z + 2.0637854e-2f;
  p = p * z - 5.3739154e-2f;
  p = p * z + 1.3331432e-1f;
  p = p * z - 3.3333281e-1f;
  const float near = x + x * z * p;
  const float far = 1.0f - 2.0f / (fast_exp(2.0f * x) + 1.0f);
  return z < 0.625f * 0.625f ? near : far;
}

/// The number of inputs of an element-wise function.
template <typename... Inputs>
constexpr std::size_t input_count(float (*)(Inputs...)) {
  return sizeof...(Inputs);
}

TH_HOST_DEVICE inline float add_value(float a, float b) {
  return a + b;
}

/// silu(gate) * up.
TH_HOST_DEVICE inline float swiglu_value(float gate, float up) {
  return gate * fast_sigmoid(gate) * up;
}
/// The gradients of swiglu_value's two inputs, from the gradient of its output.
TH_HOST_DEVICE inline void swiglu_grads(float dout, float gate, float up, float& dgate,
                                        float& dup) {
  const float s = fast_sigmoid(gate);
  dgate = dout * up * s * (1.0f + gate * (1.0f - s));
  dup = dout * gate * s;
}

/// RoPE: rotates the pair (first, second).
TH_HOST_DEVICE inline void rotate_pair(float cosine, float sine, float& first, float& second) {
  const float x1 = first, x2 = second;
  first = x1 * cosine - x2 * sine;
  second = x2 * cosine + x1 * sine;
}

/// The step of a group of 8-bit weights whose largest magnitude is `most`.
TH_HOST_DEVICE inline float int8_divisor(float most) {
  return most > 0.0f ? most / 127.0f : 1.0f;
}
/// up: in [0, 1), the share of a step from which a value is rounded up; 0.5 rounds to nearest,
/// random numbers round stochastically.
TH_HOST_DEVICE inline std::int8_t int8_code(float value, float divisor, float up) {
  const float rounded = std::floor(value / divisor + up);
  const float high = rounded < 127.0f ? rounded : 127.0f;
  return static_cast<std::int8_t>(high > -127.0f ? high : -127.0f);
}

}  // namespace thimble::THIMBLE_ISA
