// Sums without rounding: the same bits in any order and any grouping, cancellation, extremes, what
// is not finite.
#include "core/base/exact_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace thimble {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

double sum_of(const std::vector<double>& values) {
  ExactSum sum;
  for (const double v : values) sum.add(v);
  return sum.value();
}

// The sum of sums of `parts` parts, added as integers.
double spread_sum(const std::vector<double>& values, std::size_t parts) {
  std::array<std::int64_t, ExactSum::kWords> total{};
  for (std::size_t p = 0; p < parts; ++p) {
    ExactSum part;
    for (std::size_t i = p; i < values.size(); i += parts) part.add(values[i]);
    const auto words = part.words();
    for (std::size_t w = 0; w < total.size(); ++w) total[w] += words[w];
  }
  return ExactSum::from_words(total).value();
}

TEST(ExactSum, OneTermIsItself) {
  for (int exponent = -1074; exponent <= 1023; ++exponent) {
    for (const double fraction : {1.0, 1.5, 1 + 0x1p-52, 2 - 0x1p-52}) {
      const double v = std::ldexp(fraction, exponent);
      EXPECT_EQ(sum_of({v}), v) << exponent;
      EXPECT_EQ(sum_of({-v}), -v) << exponent;
      EXPECT_EQ(sum_of({v, -v}), 0.0) << exponent;
    }
  }
  EXPECT_EQ(sum_of({}), 0.0);
  EXPECT_EQ(sum_of({0.0, -0.0}), 0.0);
}

TEST(ExactSum, NothingIsLostToLargerTerms) {
  EXPECT_EQ(sum_of({1e300, 1.0, -1e300}), 1.0);
  EXPECT_EQ(sum_of({1e308, 5e-324, -1e308, 5e-324}), 1e-323);
  EXPECT_EQ(sum_of({1, 1e-20, -1}), 1e-20);
  EXPECT_EQ(sum_of({-3, 1e100, 1, -1e100}), -2.0);
  const double most = std::numeric_limits<double>::max();
  EXPECT_EQ(sum_of({most, most, -most, -most}), 0.0);
  EXPECT_EQ(sum_of({most, most}), kInf);
  EXPECT_EQ(sum_of({-most, -most}), -kInf);
}

TEST(ExactSum, OrderAndGroupingChangeNoBit) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 20; ++round) {
    std::vector<double> values;
    for (int i = 0; i < 300; ++i) {
      const double size = std::ldexp(static_cast<double>(random() >> 11),
                                     static_cast<int>(random() % (round < 10 ? 40 : 1500)) - 800);
      values.push_back(random() % 2 == 0 ? size : -size);
    }
    const double want = sum_of(values);
    for (int shuffle = 0; shuffle < 5; ++shuffle) {
      std::shuffle(values.begin(), values.end(), random);
      EXPECT_EQ(std::bit_cast<std::uint64_t>(sum_of(values)), std::bit_cast<std::uint64_t>(want));
      EXPECT_EQ(spread_sum(values, 1 + random() % 9), want);
      ExactSum left, right;
      for (std::size_t i = 0; i < values.size(); ++i) (i < 100 ? left : right).add(values[i]);
      left.add(right);
      EXPECT_EQ(left.value(), want);
    }
  }
}

TEST(ExactSum, IntegersAddUpExactly) {
  std::mt19937_64 random(2);
  std::vector<double> values;
  std::int64_t want = 0;
  for (int i = 0; i < 10'000; ++i) {
    const auto v = static_cast<std::int64_t>(random() >> 20) - (std::int64_t{1} << 43);
    values.push_back(std::ldexp(static_cast<double>(v), -900));
    values.push_back(i % 2 == 0 ? 1e290 : -1e290);
    want += v;
  }
  EXPECT_EQ(sum_of(values), std::ldexp(static_cast<double>(want), -900));  // |want| < 2^53
}

TEST(ExactSum, NotFiniteTermsStay) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(sum_of({1, kInf, 2}), kInf);
  EXPECT_EQ(sum_of({1, -kInf, 2}), -kInf);
  EXPECT_TRUE(std::isnan(sum_of({kInf, -kInf})));
  EXPECT_TRUE(std::isnan(sum_of({1, nan})));
  EXPECT_TRUE(std::isnan(spread_sum({1, nan, 3, 4}, 3)));
  EXPECT_TRUE(std::isnan(spread_sum({kInf, -kInf, 3, 4}, 2)));
}

}  // namespace
}  // namespace thimble
