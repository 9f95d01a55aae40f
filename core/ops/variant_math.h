// The arithmetic of variant_kernels.h, element by element, as element_math.h has that of the other
// kernels. Include only from per-instruction-set sources.
#pragma once

#include "core/ops/element_math.h"

namespace thimble::THIMBLE_ISA {

inline constexpr float kGeluSlope = 0.79788456080286535588f;  // sqrt(2 / pi)
inline constexpr float kGeluCube = 0.044715f;

/// gelu(x) = x * sigmoid(2 u) in the tanh form, where u = kGeluSlope (x + kGeluCube x^3): the
/// sigmoid loses no digits where x is small or very negative, as 1 + tanh(u) does.
TH_HOST_DEVICE inline float gelu_gate(float x) {
  return fast_sigmoid(2.0f * kGeluSlope * x * (1.0f + kGeluCube * x * x));
}

TH_HOST_DEVICE inline float geglu_value(float gate, float up) {
  return gate * gelu_gate(gate) * up;
}
/// The gradients of geglu_value's two inputs, from the gradient of its output.
TH_HOST_DEVICE inline void geglu_grads(float dout, float gate, float up, float& dgate, float& dup) {
  const float s = gelu_gate(gate);
  const float slope = 2.0f * kGeluSlope * (1.0f + 3.0f * kGeluCube * gate * gate);
  dgate = dout * up * s * (1.0f + gate * (1.0f - s) * slope);
  dup = dout * gate * s;
}

}  // namespace thimble::THIMBLE_ISA
