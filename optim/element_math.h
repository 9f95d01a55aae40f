// The arithmetic of updates, element by element: one text for every instruction set and for GPUs,
// each compiled in a namespace of its own. Where a product and a sum are one operation it is
// written as one, and compilers are told to make no others, so that all give the same bits. Include
// only from per-instruction-set sources.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/base/host_device.h"
#include "optim/elementwise.h"

namespace thimble::THIMBLE_ISA {

/// What a weight is multiplied by before its step, and after.
TH_HOST_DEVICE inline float decay_before(const WeightDecay& d) {
  return d.after ? 1.0f : d.factor;
}
TH_HOST_DEVICE inline float decay_after(const WeightDecay& d) {
  return d.after ? d.factor : 1.0f;
}
/// The weight after a step of `update` against it; before, after: see above.
TH_HOST_DEVICE inline float stepped(float w, float update, float before, float after) {
  return std::fma(w, before, -update) * after;
}

/// New moments and the update. (Results are values: loops over references do not become vectors.)
struct AdamResult {
  float m, v, update;
};
TH_HOST_DEVICE inline AdamResult adam_update(float g, float m, float v, const AdamMath& math) {
  m = std::fma(math.beta1, m, (1.0f - math.beta1) * g);
  v = std::fma(math.beta2, v, (1.0f - math.beta2) * g * g);
  return {m, v, math.step_size * m / std::fma(std::sqrt(v), math.inverse_sqrt_c2, math.eps)};
}

/// The new momentum and the update before the learning rate.
struct MomentumResult {
  float m, update;
};
TH_HOST_DEVICE inline MomentumResult momentum_update(float g, float m, const MomentumMath& math) {
  const float gained = math.gain * g;
  m = std::fma(math.momentum, m, gained);
  return {m, math.nesterov ? std::fma(math.momentum, m, gained) : m};
}

/// An element of c0 I + c1 A + c2 A2, whose elements of A and A2 are a and a2.
struct Polynomial {
  float c0, c1, c2;
};
TH_HOST_DEVICE inline float polynomial_value(float a, float a2, bool diagonal, Polynomial c) {
  return c.c1 * a + c.c2 * a2 + (diagonal ? c.c0 : 0.0f);
}

/// -1, 0 or 1; NaN stays NaN.
TH_HOST_DEVICE inline float sign_of(float x) {
  return x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : 0.0f * x);
}

/// The new momentum and the update before the learning rate.
TH_HOST_DEVICE inline MomentumResult lion_update(float g, float m, const LionMath& math) {
  return {std::fma(math.beta2, m, (1.0f - math.beta2) * g),
          sign_of(std::fma(math.beta1, m, (1.0f - math.beta1) * g))};
}

/// The eight 16-bit halves of block `counter` of a random stream, in the order of random.h.
TH_HOST_DEVICE inline void random_halves(std::uint64_t key, std::uint64_t index,
                                         std::uint64_t counter, std::uint16_t* out) {
  std::uint32_t x0 = static_cast<std::uint32_t>(counter),
                x1 = static_cast<std::uint32_t>(counter >> 32),
                x2 = static_cast<std::uint32_t>(index),
                x3 = static_cast<std::uint32_t>(index >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * x0, p1 = std::uint64_t{0xCD9E8D57u} * x2;
    const std::uint32_t y0 = static_cast<std::uint32_t>(p1 >> 32) ^ x1 ^ k0,
                        y2 = static_cast<std::uint32_t>(p0 >> 32) ^ x3 ^ k1;
    x1 = static_cast<std::uint32_t>(p1);
    x3 = static_cast<std::uint32_t>(p0);
    x0 = y0;
    x2 = y2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = static_cast<std::uint16_t>(x0);
  out[1] = static_cast<std::uint16_t>(x0 >> 16);
  out[2] = static_cast<std::uint16_t>(x1);
  out[3] = static_cast<std::uint16_t>(x1 >> 16);
  out[4] = static_cast<std::uint16_t>(x2);
  out[5] = static_cast<std::uint16_t>(x2 >> 16);
  out[6] = static_cast<std::uint16_t>(x3);
  out[7] = static_cast<std::uint16_t>(x3 >> 16);
}

/// bf16 with stochastic rounding: up with the probability of what is cut off, random / 2^16.
TH_HOST_DEVICE inline std::uint16_t round_stochastic(float value, std::uint16_t random) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + random) >> 16, quiet_nan = (bits >> 16) | 0x40u;
  return static_cast<std::uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet_nan : rounded);
}
/// bf16, nearest, ties to even, as every other conversion: what is derived from an f32 master.
TH_HOST_DEVICE inline std::uint16_t nearest_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16,
                      quiet_nan = (bits >> 16) | 0x40u;
  return static_cast<std::uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet_nan : rounded);
}
/// The bf16 part of an f32 that is kept in two halves: nearest, ties away from zero. With ties to
/// even the other half could not tell the two values apart that would share an even one.
TH_HOST_DEVICE inline std::uint16_t high_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x8000u) >> 16, quiet_nan = (bits >> 16) | 0x40u;
  return static_cast<std::uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet_nan : rounded);
}
TH_HOST_DEVICE inline float join_halves(std::uint16_t high, std::uint16_t low) {
  const std::uint32_t bits = static_cast<std::uint32_t>(high) << 16 | low;
  return std::bit_cast<float>(low >= 0x8000u ? bits - 0x10000u : bits);
}

/// Nearest 8-bit code of v, a value divided by its block's largest. negative_zero: the code that no
/// negative value may get (of signed codes the one of 0, else -1). See CodeTables.
TH_HOST_DEVICE inline std::uint8_t nearest_code(float v, const float* bounds,
                                                const std::int32_t* first,
                                                std::int32_t negative_zero) {
  static_assert(kCodesPerCell == 2);
  const auto bits = std::bit_cast<std::uint32_t>(v);
  const auto upper = static_cast<std::int32_t>((bits & 0x7FFFFFFFu) >> 16) - kFirstCell;
  const std::int32_t cell = upper < 0 ? 0 : (upper < kCodeCells ? upper : kCodeCells - 1);
  std::int32_t code = first[cell + static_cast<std::int32_t>(bits >> 31) * kCodeCells];
  code += v > bounds[code] ? 1 : 0;
  code += v > bounds[code] ? 1 : 0;
  code -= static_cast<std::int32_t>(code == negative_zero) & static_cast<std::int32_t>(v < 0.0f);
  return static_cast<std::uint8_t>(code);
}

/// ln x for normal x > 0; 1e-7 relative. Ref: the polynomial of Cephes' logf.
TH_HOST_DEVICE inline float fast_log(float x) {
  const auto bits = std::bit_cast<std::int32_t>(x);
  const std::int32_t exponent = (bits - 0x3F3504F3) >> 23;  // so that m is in [sqrt(1/2), sqrt(2))
  const float m = std::bit_cast<float>(bits - (exponent << 23)) - 1.0f;
  const auto e = static_cast<float>(exponent);
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  return m * m * m * p - 0.5f * m * m + m + e * 0.69314718056f;
}

/// A pair of independent normals from two random words.
TH_HOST_DEVICE inline void normal_pair(std::uint32_t a, std::uint32_t b, float scale, float& first,
                                       float& second) {
  const float u = (static_cast<float>(a >> 8) + 0.5f) * 0x1p-24f;
  const float radius = std::sqrt(-2.0f * fast_log(u)) * scale;
  const float turns = static_cast<float>(b >> 8) * 0x1p-22f;  // quarters of a turn, [0, 4)
  const auto quarter = static_cast<std::int32_t>(turns + 0.5f);
  const float x = (turns - static_cast<float>(quarter)) * 1.57079632679f;
  const float x2 = x * x;
  const float sine =
      x + x * x2 * (-1.6666654611e-1f + x2 * (8.3321608736e-3f - x2 * 1.9515295891e-4f));
  const float cosine = 1.0f - 0.5f * x2 +
                       x2 * x2 * (4.166664568e-2f - x2 * (1.388731625e-3f - x2 * 2.443315712e-5f));
  const float s = (quarter & 1) != 0 ? cosine : sine, c = (quarter & 1) != 0 ? sine : cosine;
  first = radius * (((quarter + 1) & 2) != 0 ? -c : c);
  second = radius * ((quarter & 2) != 0 ? -s : s);
}

}  // namespace thimble::THIMBLE_ISA
