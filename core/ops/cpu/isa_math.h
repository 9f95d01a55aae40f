// Arithmetic shared by the per-instruction-set kernels. Everything lives in the namespace of the
// instruction set, so that no function compiled for AVX-512 can be linked into the AVX2 path.
#pragma once

#include <bit>
#include <cstdint>

#include "core/base/dtype.h"
#include "core/ops/element_math.h"

namespace thimble::THIMBLE_ISA {

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

}  // namespace thimble::THIMBLE_ISA
