// Codes against a plain reference, bit for bit; budgets; what is refused.
#include "compress/packing.h"

#include <gtest/gtest.h>
#include <immintrin.h>

#include <cmath>
#include <numeric>

#include "compress/budgets.h"
#include "core/base/random.h"

namespace thimble {
namespace {

// What value i is packed to and back, by the definition alone.
float reference(const std::vector<float>& values, std::size_t i, const PackRow& row) {
  const std::size_t begin =
      i / static_cast<std::size_t>(row.group) * static_cast<std::size_t>(row.group);
  float low = values[begin], high = low;
  for (std::size_t j = begin; j < begin + static_cast<std::size_t>(row.group); ++j) {
    low = std::fmin(low, values[j]);
    high = std::fmax(high, values[j]);
  }
  float least = half_to_float(_cvtss_sh(low, _MM_FROUND_TO_NEG_INF));
  float step = half_to_float(
      _cvtss_sh((high - least) / static_cast<float>((1 << row.bits) - 1), _MM_FROUND_TO_POS_INF));
  const float code = step > 0 ? std::floor((values[i] - least) * (1.0f / step) + 0.5f) : 0.0f;
  const float most = static_cast<float>((1 << row.bits) - 1);
  return std::fma(std::fmin(std::fmax(code, 0.0f), most), step, least);
}

TEST(Packing, RowsComeBackAsTheDefinitionSays) {
  for (const std::int64_t bits : {8, 4, 2}) {
    for (const auto& [n, group] : {std::pair{64, 32}, {64, 64}, {20, 20}, {96, 32}, {4, 4}}) {
      const PackRow row{.n = n, .bits = bits, .group = group};
      const CounterRandom random(7, RandomPurpose::kSampling, static_cast<std::uint64_t>(bits),
                                 static_cast<std::uint64_t>(n));
      std::vector<float> values(static_cast<std::size_t>(n)), back(values.size());
      for (int trial = 0; trial < 50; ++trial) {
        for (std::size_t i = 0; i < values.size(); ++i)
          values[i] = (trial % 3 == 0 ? 100.0f : 1.0f) *
                      random.normal(static_cast<std::uint64_t>(trial) * 100 + i);
        if (trial == 1) std::fill(values.begin(), values.end(), 0.25f);
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(n * bits / 8));
        std::vector<CodeScale> scales(static_cast<std::size_t>(n / group));
        pack_row(row, values.data(), codes.data(), scales.data());
        unpack_row(row, codes.data(), scales.data(), back.data());
        for (std::size_t i = 0; i < values.size(); ++i) {
          EXPECT_EQ(back[i], reference(values, i, row)) << bits << " bits, value " << i;
          const CodeScale s = scales[i / static_cast<std::size_t>(group)];
          EXPECT_TRUE(std::abs(back[i] - values[i]) <= 0.5001f * half_to_float(s.step) + 1e-6f);
        }
      }
    }
  }
}

TEST(Packing, NothingFiniteBecomesOfWhatIsNot) {
  std::vector<float> values(64, 1.0f);
  values[5] = std::nanf("");
  std::vector<std::uint8_t> codes(32);
  std::vector<CodeScale> scales(2);
  std::vector<float> back(64);
  pack_row({.n = 64, .bits = 4, .group = 32}, values.data(), codes.data(), scales.data());
  unpack_row({.n = 64, .bits = 4, .group = 32}, codes.data(), scales.data(), back.data());
  EXPECT_TRUE(std::isnan(back[5]) && std::isnan(back[0]));
  EXPECT_EQ(back[40], 1.0f);
}

KvShape shape_of(std::int64_t layers, std::int64_t capacity) {
  return {.layers = layers,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 16,
          .dtype = DType::kBF16,
          .capacity = capacity};
}

TEST(Budgets, PyramidsFallAndAddUp) {
  for (const std::int64_t layers : {2, 3, 7, 32}) {
    for (const std::int64_t budget : {100, 333, 900}) {
      const auto budgets = pyramid_budgets(budget, 36, shape_of(layers, 1000));
      EXPECT_EQ(std::accumulate(budgets.begin(), budgets.end(), std::int64_t{0}), budget * layers);
      EXPECT_TRUE(std::is_sorted(budgets.rbegin(), budgets.rend()));
      EXPECT_LE(budgets.front(), 1000);
      EXPECT_GT(budgets.back(), 36);
      if (budget == 100) {
        EXPECT_NEAR(static_cast<double>(budgets.back() - 36), 64 / 20.0, 1);
      }
    }
  }
  EXPECT_EQ(pyramid_budgets(64, 36, shape_of(1, 100)), std::vector<std::int64_t>{64});
}

std::vector<std::int64_t> kept_of(const std::vector<std::vector<std::int64_t>>& kept,
                                  std::size_t head) {
  return kept.at(head);
}

TEST(Budgets, HeadsKeepTheirBestOrShareWithOthers) {
  const std::vector<float> a{0.1f, 5, 4, 3, 0.1f, 0}, b{9, 1, 8, 1, 1, 0};
  const std::vector<std::int32_t> positions{3, 5, 7, 9, 11, 13};
  const std::vector<HeadScores> heads{
      {.scores = a, .positions = positions, .sinks = 4, .window = 1},
      {.scores = b, .positions = positions, .sinks = 4, .window = 1}};
  const auto even = keep_even(heads, 3);  // a sink, the window, the best of the rest
  EXPECT_EQ(kept_of(even, 0), (std::vector<std::int64_t>{0, 1, 5}));
  EXPECT_EQ(kept_of(even, 1), (std::vector<std::int64_t>{0, 2, 5}));
  const auto shared = keep_adaptive(heads, 4, 0.2);
  EXPECT_EQ(kept_of(shared, 0), (std::vector<std::int64_t>{0, 1, 2, 3, 5}));
  EXPECT_EQ(kept_of(shared, 1), (std::vector<std::int64_t>{0, 2, 5}));
  const auto guarded = keep_adaptive(heads, 4, 1.0);
  EXPECT_EQ(kept_of(guarded, 1).size(), 4u);
}

void expect_refused(const KvOptions& options, const std::string& part) {
  try {
    static_cast<void>(make_kv_plan(options, shape_of(4, 1000)));
    ADD_FAILURE() << "not refused: " << part;
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST(KvOptionsTest, WhatDoesNotWorkIsRefusedByName) {
  using M = KvMethod;
  expect_refused({.method = M::kSnapKv, .budget = 0}, "--kv-budget 0");
  expect_refused({.method = M::kSnapKv, .budget = 2.5}, "--kv-budget 2.5");
  expect_refused({.method = M::kSnapKv, .budget = std::nan("")}, "--kv-budget nan");
  expect_refused({.method = M::kFull, .budget = 0.5}, "--kv-method full keeps everything");
  expect_refused({.method = M::kH2o, .budget = 0.03}, "--kv-sinks 4 and --kv-window 32 need more");
  expect_refused({.method = M::kH2o, .budget = 0.5, .sinks = -1}, "--kv-sinks -1");
  expect_refused({.method = M::kH2o, .budget = 0.5, .window = 0}, "--kv-window 0");
  expect_refused({.bits = 3}, "--kv-bits 3: allowed 16, 8, 4, 2");
  expect_refused({.window = 48, .bits = 4, .group = 32}, "--kv-window 48 is not a multiple");
  expect_refused({.bits = 4, .group = 16}, "--kv-group 16");
  expect_refused({.positions = PositionPolicy::kSlots}, "needs --kv-rope pre");
  expect_refused({.method = M::kExpected,
                  .budget = 0.5,
                  .rope_stage = RopeStage::kPre,
                  .positions = PositionPolicy::kSlots},
                 "--kv-positions original");
  expect_refused({.method = M::kWindow, .budget = 0.5, .allocation = KvAllocation::kAda},
                 "has no scores");
  expect_refused({.method = M::kSnapKv, .budget = 0.5, .pooling = 4}, "--kv-pooling 4");
  EXPECT_THROW(static_cast<void>(parse_kv_method("best", "--kv-method")), UserError);
}

}  // namespace
}  // namespace thimble
