#include "models/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/base/threads.h"
#include "core/ops/ops.h"

namespace thimble {
namespace {

std::vector<float> plain_inverse(double theta, std::int64_t dim) {
  std::vector<float> inverse;
  for (std::int64_t i = 0; i < dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(dim);
    inverse.push_back(1.0f / std::pow(static_cast<float>(theta), exponent));
  }
  return inverse;
}

void scale_llama3(const RopeScaling& s, std::int64_t original, std::vector<float>& inverse) {
  const double low_wavelength = static_cast<double>(original) / s.low_freq_factor;
  const double high_wavelength = static_cast<double>(original) / s.high_freq_factor;
  for (float& f : inverse) {
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength > low_wavelength) {
      f = static_cast<float>(f / s.factor);
    } else if (wavelength >= high_wavelength) {
      const double smooth = (static_cast<double>(original) / wavelength - s.low_freq_factor) /
                            (s.high_freq_factor - s.low_freq_factor);
      f = static_cast<float>((1 - smooth) * f / s.factor + smooth * f);
    }
  }
}

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

float scale_yarn(const RopeScaling& s, double theta, std::int64_t dim, std::int64_t original,
                 std::vector<float>& inverse) {
  const auto correction = [&](double rotations) {
    return static_cast<double>(dim) *
           std::log(static_cast<double>(original) / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(theta));
  };
  double low = correction(s.beta_fast), high = correction(s.beta_slow);
  if (s.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < inverse.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inverse[i] = static_cast<float>(inverse[i] / s.factor * ramp + inverse[i] * (1 - ramp));
  }
  if (s.attention_factor) return static_cast<float>(*s.attention_factor);
  if (s.mscale && s.mscale_all_dim) {
    return static_cast<float>(yarn_mscale(s.factor, *s.mscale) /
                              yarn_mscale(s.factor, *s.mscale_all_dim));
  }
  return static_cast<float>(yarn_mscale(s.factor, 1.0));
}

// Ref: Ding et al. 2024, "LongRoPE", section 3; the factor on cosines and sines as in transformers.
float scale_longrope(const RopeScaling& s, double theta, std::int64_t original, bool beyond,
                     std::vector<float>& inverse) {
  const std::vector<double>& factors = beyond ? s.long_factor : s.short_factor;
  TH_CHECK_EQ(factors.size(), inverse.size());
  for (std::size_t i = 0; i < inverse.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(2 * inverse.size());
    inverse[i] =
        1.0f / (static_cast<float>(factors[i]) * std::pow(static_cast<float>(theta), exponent));
  }
  if (s.attention_factor) return static_cast<float>(*s.attention_factor);
  if (s.factor <= 1) return 1.0f;
  return static_cast<float>(
      std::sqrt(1 + std::log(s.factor) / std::log(static_cast<double>(original))));
}

// out [positions, D].
void fill_rows(const RopeFrequencies& frequencies, std::int64_t positions, float* out) {
  const auto half = static_cast<std::int64_t>(frequencies.inverse.size());
  constexpr std::int64_t kSineCost = 16;  // a sine and a cosine beside writing a value
  parallel_for_each(positions, 2 * half * kSineCost, [&](std::int64_t p) {
    for (std::int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(p) * frequencies.inverse[static_cast<std::size_t>(i)];
      out[p * 2 * half + i] = std::cos(angle) * frequencies.attention_factor;
      out[p * 2 * half + half + i] = std::sin(angle) * frequencies.attention_factor;
    }
  });
}

}  // namespace

RopeFrequencies rope_frequencies(const ModelConfig& config, std::int64_t positions) {
  const RopeScaling& s = config.rope_scaling;
  const std::int64_t dim = config.rotated();
  const std::int64_t original =
      s.original_max_positions > 0 ? s.original_max_positions : config.max_positions;
  RopeFrequencies out;
  double theta = config.rope_theta;
  if (s.type == RopeScaling::Type::kDynamic && positions > original) {
    const double stretch =
        s.factor * static_cast<double>(positions) / static_cast<double>(original) - (s.factor - 1);
    theta *= std::pow(stretch, static_cast<double>(dim) / static_cast<double>(dim - 2));
  }
  out.inverse = plain_inverse(theta, dim);
  if (s.type == RopeScaling::Type::kLinear) {
    for (float& f : out.inverse) f = static_cast<float>(f / s.factor);
  } else if (s.type == RopeScaling::Type::kLlama3) {
    scale_llama3(s, original, out.inverse);
  } else if (s.type == RopeScaling::Type::kYarn) {
    out.attention_factor = scale_yarn(s, theta, dim, original, out.inverse);
  } else if (s.type == RopeScaling::Type::kLongrope) {
    out.attention_factor = scale_longrope(s, theta, original, positions > original, out.inverse);
  }
  return out;
}

Tensor make_rope_table(Arena& arena, const ModelConfig& config, std::int64_t positions) {
  const std::int64_t tables = config.local_rope_theta ? 2 : 1;
  const Tensor table = Tensor::empty(arena, MemoryTag::kWorkspace, DType::kF32,
                                     Shape{tables * positions, config.rotated()}, "rotary table");
  if (arena.device().planning) return table;
  std::vector<float> values(static_cast<std::size_t>(table.numel()));
  fill_rows(rope_frequencies(config, positions), positions, values.data());
  if (config.local_rope_theta) {
    fill_rows({.inverse = plain_inverse(*config.local_rope_theta, config.rotated())}, positions,
              values.data() + table.numel() / 2);
  }
  ops::from_host(table, values.data());
  return table;
}

Tensor layer_rope_table(const ModelConfig& config, const Tensor& table, std::int64_t window) {
  if (!config.local_rope_theta) return table;
  const std::int64_t positions = table.dim(0) / 2;
  return window > 0 ? table.rows(positions, 2 * positions) : table.rows(0, positions);
}

}  // namespace thimble
