// 8-bit floating-point numbers: e4m3 (no infinities, up to 448) and e5m2 (up to 57344), as in
// Micikevicius et al., "FP8 formats for deep learning", 2022. One source for every instruction set
// and for GPUs.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "core/base/host_device.h"
#include "core/ops/kernel_table.h"

namespace thimble::THIMBLE_ISA {

struct Fp8Limits {
  int mantissa_bits;
  int min_exponent;  // of normal numbers
  float max;
};
TH_HOST_DEVICE inline Fp8Limits fp8_limits(Fp8Format format) {
  return format == Fp8Format::kE4M3 ? Fp8Limits{3, -6, 448.0f} : Fp8Limits{2, -14, 57344.0f};
}

TH_HOST_DEVICE inline float power_of_two(int exponent) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23);
}

/// |x|, and infinity for NaN, so that a maximum of magnitudes keeps what is not finite.
TH_HOST_DEVICE inline float fp8_magnitude(float x) {
  const float magnitude = x < 0.0f ? -x : x;
  return magnitude <= std::numeric_limits<float>::max() ? magnitude
                                                        : std::numeric_limits<float>::infinity();
}

/// The smallest power of two by which values up to `most` can be divided to be within the format;
/// 1 if there is none to find.
TH_HOST_DEVICE inline float fp8_scale(float most, Fp8Format format) {
  if (!(most > 0.0f) || most > std::numeric_limits<float>::max()) return 1.0f;
  const Fp8Limits limits = fp8_limits(format);
  const int top = format == Fp8Format::kE4M3 ? 8 : 15;  // exponent of the largest value
  int exponent = static_cast<int>(std::bit_cast<std::uint32_t>(most) >> 23) - 127 - top;
  exponent = exponent > -100 ? exponent : -100;  // its inverse is a normal number
  return most > limits.max * power_of_two(exponent) ? power_of_two(exponent + 1)
                                                    : power_of_two(exponent);
}

/// The nearest value of the format, ties to even, at most its largest; NaN for what is not finite.
TH_HOST_DEVICE inline float fp8_round(float x, Fp8Format format) {
  const Fp8Limits limits = fp8_limits(format);
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x), magnitude = bits & 0x7FFFFFFFu;
  if (magnitude >= 0x7F800000u) return std::numeric_limits<float>::quiet_NaN();
  const std::uint32_t least = static_cast<std::uint32_t>(limits.min_exponent + 127) << 23;
  const std::uint32_t exponent = (magnitude > least ? magnitude : least) & 0x7F800000u;
  // 1.5 times a power of two whose last bit is the format's last bit at this exponent.
  const float shift = std::bit_cast<float>(
      (exponent + (static_cast<std::uint32_t>(23 - limits.mantissa_bits) << 23)) | 0x400000u);
  float rounded = (std::bit_cast<float>(magnitude) + shift) - shift;
  rounded = rounded < limits.max ? rounded : limits.max;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(rounded) | (bits & 0x80000000u));
}

/// The code of a value that fp8_round() returned.
TH_HOST_DEVICE inline std::uint8_t fp8_code(float rounded, Fp8Format format) {
  const Fp8Limits limits = fp8_limits(format);
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(rounded), magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return 0x7F;
  const std::uint32_t sign = bits >> 31 << 7;
  const std::uint32_t least = static_cast<std::uint32_t>(limits.min_exponent + 127) << 23;
  if (magnitude < least) {
    const float steps =
        std::bit_cast<float>(magnitude) * power_of_two(limits.mantissa_bits - limits.min_exponent);
    return static_cast<std::uint8_t>(sign | static_cast<std::uint32_t>(steps));
  }
  // Exponent and mantissa side by side; the format's smallest exponent field is 1.
  const std::uint32_t above = (magnitude - least) >> (23 - limits.mantissa_bits);
  return static_cast<std::uint8_t>(sign | (above + (1u << limits.mantissa_bits)));
}

/// The value of a code.
TH_HOST_DEVICE inline float fp8_value(std::uint8_t code, Fp8Format format) {
  const Fp8Limits limits = fp8_limits(format);
  const std::uint32_t magnitude = code & 0x7Fu, one = 1u << limits.mantissa_bits;
  const bool is_nan = format == Fp8Format::kE4M3 ? magnitude == 0x7Fu : magnitude > 0x7Cu;
  if (is_nan) return std::numeric_limits<float>::quiet_NaN();
  float value = 0;
  if (format == Fp8Format::kE5M2 && magnitude == 0x7Cu) {
    value = std::numeric_limits<float>::infinity();
  } else if (magnitude < one) {
    value =
        static_cast<float>(magnitude) * power_of_two(limits.min_exponent - limits.mantissa_bits);
  } else {
    const std::uint32_t least = static_cast<std::uint32_t>(limits.min_exponent + 127) << 23;
    value = std::bit_cast<float>(least + ((magnitude - one) << (23 - limits.mantissa_bits)));
  }
  return (code & 0x80u) != 0 ? -value : value;
}

}  // namespace thimble::THIMBLE_ISA
