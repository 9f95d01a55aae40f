// RoPE frequencies of every scaling against their formulas in f64, and RoPE with its
// inverse.
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "models/rope_table.h"
#include "tests/core/gradient_error.h"

namespace thimble {
namespace {

ModelConfig config_of(RopeScaling::Type type, std::int64_t head_dim = 64) {
  ModelConfig c;
  c.head_dim = head_dim;
  c.max_positions = 2048;
  c.rope_theta = 10000;
  c.rope_scaling = {.type = type,
                    .factor = type == RopeScaling::Type::kDefault ? 1.0 : 8.0,
                    .original_max_positions = 1024};
  return c;
}

std::vector<double> plain(double theta, std::int64_t dim) {
  std::vector<double> f;
  for (std::int64_t i = 0; i < dim; i += 2)
    f.push_back(std::pow(theta, -static_cast<double>(i) / static_cast<double>(dim)));
  return f;
}

void expect_frequencies(const ModelConfig& config, std::int64_t positions,
                        const std::vector<double>& want) {
  const RopeFrequencies got = rope_frequencies(config, positions);
  ASSERT_EQ(got.inverse.size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i) {  // f32 powers: a few units in the last place
    EXPECT_TRUE(std::abs(static_cast<double>(got.inverse[i]) - want[i]) <= 1e-6 * want[i])
        << i << ": " << got.inverse[i] << " " << want[i];
  }
}

TEST(RopeFrequencies, DefaultAndLinear) {
  for (const std::int64_t dim : {2, 8, 40, 64, 128}) {
    std::vector<double> want = plain(10000, dim);
    expect_frequencies(config_of(RopeScaling::Type::kDefault, dim), 100, want);
    for (double& f : want) f /= 8;
    expect_frequencies(config_of(RopeScaling::Type::kLinear, dim), 100, want);
  }
  ModelConfig large = config_of(RopeScaling::Type::kDefault);
  large.rope_theta = 1e6;
  expect_frequencies(large, 100, plain(1e6, 64));
}

TEST(RopeFrequencies, Llama3KeepsShortWavesDividesLongOnesAndBlendsBetween) {
  const ModelConfig c =
      config_of(RopeScaling::Type::kLlama3);  // waves below 1024 / 4 and above 1024 / 1
  std::vector<double> want = plain(10000, 64);
  int kept = 0, divided = 0, blended = 0;
  for (double& f : want) {
    const double turns = 1024 * f / (2 * std::numbers::pi);
    if (turns > 4) {
      ++kept;
    } else if (turns < 1) {
      ++divided;
      f /= 8;
    } else {
      ++blended;
      const double smooth = (turns - 1) / 3;
      f = f * smooth + f / 8 * (1 - smooth);
    }
  }
  EXPECT_TRUE(kept > 0 && divided > 0 && blended > 0);
  expect_frequencies(c, 100, want);
}

TEST(RopeFrequencies, DynamicStretchesOnlyBeyondTheTrainedContext) {
  const ModelConfig c = config_of(RopeScaling::Type::kDynamic);
  expect_frequencies(c, 1024, plain(10000, 64));
  expect_frequencies(c, 3000, plain(10000 * std::pow(8.0 * 3000 / 1024 - 7, 64.0 / 62), 64));
}

class RopeTest : public testing::TestWithParam<DType> {};

TEST_P(RopeTest, TurnsPairsByPositionAndBackwardIsItsTranspose) {
  const auto arena = Arena::make_cpu(1 << 26);
  for (const auto type :
       {RopeScaling::Type::kDefault, RopeScaling::Type::kLinear, RopeScaling::Type::kLlama3}) {
    for (const std::int64_t dim : {2, 8, 40, 64, 128}) {
      const ModelConfig config = config_of(type, dim);
      const Tensor table = make_rope_table(*arena, config, 2048);
      const std::int64_t tokens = 7, heads = 3, half = dim / 2;
      const Tensor x = random_tensor(*arena, GetParam(), Shape{tokens, heads * dim}, 1);
      const Tensor y = random_tensor(*arena, GetParam(), x.shape(), 1),
                   dy = random_tensor(*arena, GetParam(), x.shape(), 2);
      const Tensor dx = random_tensor(*arena, GetParam(), x.shape(), 2);
      const Tensor positions =
          Tensor::empty(*arena, MemoryTag::kActivations, DType::kI32, Shape{tokens});
      const std::int32_t at[] = {0, 1, 5, 2047, 3, 0, 700};
      std::copy(at, at + tokens, positions.data<std::int32_t>());
      ops::rope(y, table, positions, false);
      ops::rope(dx, table, positions, true);
      const std::vector<double> v = values_of(x), d = values_of(dy);
      std::vector<double> want(v.size()), want_dx(v.size());
      const auto frequencies = rope_frequencies(config, 2048).inverse;
      for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t i = 0; i < heads * half; ++i) {
          const auto a = static_cast<std::size_t>((t * heads + i / half) * dim + i % half),
                     b = a + static_cast<std::size_t>(half);
          // Angles are f32 matmuls, as in transformers.
          const double angle = static_cast<double>(static_cast<float>(at[t]) *
                                                   frequencies[static_cast<std::size_t>(i % half)]);
          const double c = std::cos(angle), s = std::sin(angle);
          want[a] = v[a] * c - v[b] * s;
          want[b] = v[b] * c + v[a] * s;
          want_dx[a] = d[a] * c + d[b] * s;
          want_dx[b] = d[b] * c - d[a] * s;
        }
      }
      expect_close(values_of(y), want, GetParam() == DType::kBF16 ? 1e-2 : 1e-5, "rotation");
      expect_gradient(values_of(dx), want_dx, GetParam(), "gradient");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, RopeTest, testing::Values(DType::kF32, DType::kBF16));

}  // namespace
}  // namespace thimble
