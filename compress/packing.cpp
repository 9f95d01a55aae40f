#include "compress/packing.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace thimble {
namespace {

constexpr float kLargestHalf = 65504;
constexpr std::uint16_t kNan = 0x7E00;

// The nearest f16 that is not above (below) x.
std::uint16_t half_below(float x) {
  return _cvtss_sh(std::clamp(x, -kLargestHalf, kLargestHalf), _MM_FROUND_TO_NEG_INF);
}
std::uint16_t half_above(float x) {
  return _cvtss_sh(std::clamp(x, -kLargestHalf, kLargestHalf), _MM_FROUND_TO_POS_INF);
}

}  // namespace

CodeScale code_scale(float low, float high, std::int64_t bits) {
  const auto steps = static_cast<float>((1 << bits) - 1);
  const std::uint16_t least = half_below(low);
  return {.step = half_above((high - _cvtsh_ss(least)) / steps), .least = least};
}

void pack_row(const PackRow& row, const float* values, std::uint8_t* codes, CodeScale* scales) {
  const std::int64_t bytes = row.n * row.bits / 8;
  const auto most = static_cast<float>((1 << row.bits) - 1);
  std::memset(codes, 0, static_cast<std::size_t>(bytes));
  for (std::int64_t begin = 0; begin < row.n; begin += row.group) {
    float low = values[begin], high = values[begin];
    bool finite = true;
    for (std::int64_t i = begin; i < begin + row.group; ++i) {
      low = std::min(low, values[i]);
      high = std::max(high, values[i]);
      finite &= std::isfinite(values[i]);
    }
    const CodeScale scale = finite ? code_scale(low, high, row.bits) : CodeScale{kNan, kNan};
    scales[begin / row.group] = scale;
    const float step = _cvtsh_ss(scale.step), least = _cvtsh_ss(scale.least);
    const float inverse = step > 0 ? 1.0f / step : 0.0f;
    for (std::int64_t i = begin; i < begin + row.group; ++i) {
      const float nearest = std::floor((values[i] - least) * inverse + 0.5f);
      const float code = nearest > 0 ? std::min(nearest, most) : 0.0f;
      const auto shift = static_cast<int>(i / bytes * row.bits);
      codes[i % bytes] =
          static_cast<std::uint8_t>(codes[i % bytes] | (static_cast<unsigned>(code) << shift));
    }
  }
}

void unpack_row(const PackRow& row, const std::uint8_t* codes, const CodeScale* scales,
                float* values) {
  const std::int64_t bytes = row.n * row.bits / 8;
  const unsigned mask = (1u << row.bits) - 1;
  for (std::int64_t i = 0; i < row.n; ++i) {
    const CodeScale scale = scales[i / row.group];
    const unsigned code = (codes[i % bytes] >> (i / bytes * row.bits)) & mask;
    values[i] = std::fma(static_cast<float>(code), _cvtsh_ss(scale.step), _cvtsh_ss(scale.least));
  }
}

}  // namespace thimble
