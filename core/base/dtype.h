// Element types and the conversions between them. The names are those of safetensors, in lower
// case.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace thimble {

enum class DType : std::uint8_t { kF32, kBF16, kF16, kI32, kU16, kU8 };

constexpr std::int64_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
    case DType::kU16:
      return 2;
    case DType::kU8:
      return 1;
  }
  return 0;
}

constexpr std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kI32:
      return "i32";
    case DType::kU16:
      return "u16";
    case DType::kU8:
      return "u8";
  }
  return "?";
}

/// Elements of an 8-bit weight that share a scale, counted from element 0 of the storage.
inline constexpr std::int64_t kInt8Group = 128;

/// The upper half of a float: 8 exponent bits, 7 mantissa bits.
struct BF16 {
  std::uint16_t bits = 0;
};
static_assert(sizeof(BF16) == 2);

constexpr float to_float(BF16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}
constexpr float to_float(float value) {
  return value;
}

/// A bf16 and the remainder that it lacks of an f32: together every bit of the f32. The bf16 is the
/// nearest one, ties away from zero; the remainder is the low half of the f32's bits.
struct SplitFloat {
  BF16 high;
  std::uint16_t low = 0;
};
constexpr SplitFloat split_float(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return {{static_cast<std::uint16_t>((bits + 0x8000u) >> 16)}, static_cast<std::uint16_t>(bits)};
}
constexpr float join_float(BF16 high, std::uint16_t low) {
  const std::uint32_t bits = (static_cast<std::uint32_t>(high.bits) << 16 | low);
  return std::bit_cast<float>(low >= 0x8000u ? bits - 0x10000u : bits);
}

/// Round to nearest, ties to even; every NaN becomes a quiet NaN.
constexpr BF16 to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t quiet_nan = (bits >> 16) | 0x40u;
  const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  return BF16{static_cast<std::uint16_t>(is_nan ? quiet_nan : rounded)};
}

/// IEEE half precision to float, exact, including subnormals, infinities and NaN.
constexpr float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1Fu;
  const std::uint32_t mantissa = half & 0x3FFu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | (mantissa << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

}  // namespace thimble
