// Numbers in 8 bits against their definition, and matmuls of them against f64.
#define THIMBLE_ISA fp8_test
#include <gtest/gtest.h>

#include <cmath>

#include "core/base/random.h"
#include "core/ops/fp8_math.h"
#include "tests/core/expect_close.h"

namespace thimble {
namespace {

struct Format {
  Fp8Format format;
  int exponent_bits, mantissa_bits, bias, first_nan;
};
constexpr Format kFormats[] = {{Fp8Format::kE4M3, 4, 3, 7, 0x7F},
                               {Fp8Format::kE5M2, 5, 2, 15, 0x7D}};

// By the definition of the format; e5m2's 0x7C is infinity.
double value_of(int code, const Format& f) {
  const int mantissa = code & ((1 << f.mantissa_bits) - 1);
  const int exponent = (code & 0x7F) >> f.mantissa_bits;
  if ((code & 0x7F) >= f.first_nan) return std::nan("");
  if (f.format == Fp8Format::kE5M2 && (code & 0x7F) == 0x7C)
    return std::copysign(INFINITY, code & 0x80 ? -1 : 1);
  const double size = exponent == 0 ? std::ldexp(mantissa, 1 - f.bias - f.mantissa_bits)
                                    : std::ldexp((1 << f.mantissa_bits) + mantissa,
                                                 exponent - f.bias - f.mantissa_bits);
  return code & 0x80 ? -size : size;
}

// The codes of finite values are in the order of the values.
int last_finite(const Format& f) {
  return f.format == Fp8Format::kE4M3 ? 0x7E : 0x7B;
}

// The nearest finite value; of two, the one with the even code.
double nearest(double x, const Format& f) {
  int best = 0;
  for (int code = 1; code <= last_finite(f); ++code) {
    const double off = std::abs(value_of(code, f) - std::abs(x)),
                 best_off = std::abs(value_of(best, f) - std::abs(x));
    if (off < best_off || (off == best_off && code % 2 == 0)) best = code;
  }
  return std::copysign(value_of(best, f), x);
}

TEST(Fp8Test, CodesAreThoseOfTheirDefinition) {
  for (const Format& f : kFormats) {
    for (int code = 0; code < 256; ++code) {
      const float value = fp8_test::fp8_value(static_cast<std::uint8_t>(code), f.format);
      const double want = value_of(code, f);
      if (std::isnan(want)) {
        EXPECT_TRUE(std::isnan(value)) << code;
        EXPECT_EQ(fp8_test::fp8_code(value, f.format) & 0x7F, 0x7F);
        continue;
      }
      EXPECT_EQ(static_cast<double>(value), want) << code;
      if (!std::isfinite(want)) continue;
      EXPECT_EQ(fp8_test::fp8_code(fp8_test::fp8_round(value, f.format), f.format), code);
    }
    EXPECT_EQ(static_cast<double>(fp8_test::fp8_limits(f.format).max), value_of(last_finite(f), f));
  }
}

TEST(Fp8Test, RoundsToTheNearest) {
  const CounterRandom random(1, RandomPurpose::kInit);
  for (const Format& f : kFormats) {
    const auto check = [&](float x) {
      EXPECT_EQ(static_cast<double>(fp8_test::fp8_round(x, f.format)),
                nearest(static_cast<double>(x), f))
          << x;
      EXPECT_EQ(std::signbit(fp8_test::fp8_round(x, f.format)), std::signbit(x));
    };
    for (std::uint64_t i = 0; i < 3000; ++i)
      check(random.normal(i) * std::exp2(static_cast<float>(random.u32(i) % 40) - 22.0f));
    for (int code = 0; code < last_finite(f); ++code) {
      const double between = (value_of(code, f) + value_of(code + 1, f)) / 2;
      for (const double x : {between, std::nextafter(static_cast<float>(between), 0.0f) * 1.0,
                             std::nextafter(static_cast<float>(between), 1e9f) * 1.0})
        check(static_cast<float>(x));
    }
    for (const float x : {0.0f, -0.0f, 1e6f, -1e6f, 1e-30f, 1e-45f}) check(x);
    for (const float x : {INFINITY, -INFINITY, std::nanf("")})
      EXPECT_TRUE(std::isnan(fp8_test::fp8_round(x, f.format)));
  }
}

// By trying every power of two.
double smallest_scale(double most, const Format& f) {
  int exponent = 120;
  while (exponent > -100 && most <= value_of(last_finite(f), f) * std::ldexp(1.0, exponent - 1))
    --exponent;
  return std::ldexp(1.0, exponent);
}

TEST(Fp8Test, ScalesAreTheSmallestPowersOfTwoThatFit) {
  const CounterRandom random(2, RandomPurpose::kInit);
  for (const Format& f : kFormats) {
    for (std::uint64_t i = 0; i < 3000; ++i) {
      const float most =
          std::abs(random.normal(i)) * std::exp2(static_cast<float>(random.u32(i) % 200) - 90.0f);
      EXPECT_EQ(static_cast<double>(fp8_test::fp8_scale(most, f.format)),
                smallest_scale(static_cast<double>(most), f));
    }
    for (const double most : {448.0, 57344.0, 448.5, 1.0, 1.75, 1.76})
      EXPECT_EQ(static_cast<double>(fp8_test::fp8_scale(static_cast<float>(most), f.format)),
                smallest_scale(most, f));
    for (const float most : {0.0f, INFINITY, std::nanf("")})
      EXPECT_EQ(fp8_test::fp8_scale(most, f.format), 1.0f);
  }
}

// Every orientation, sums, a bias, and sizes that 8 bits cannot take.
TEST(Fp8Test, MatmulsAreThoseOfRoundedOperands) {
  const auto arena = Arena::make_cpu(1 << 26);
  const auto rounded = [](const Tensor& t, const Format& f, bool rounds) {
    std::vector<double> values = values_of(t);
    double most = 0;
    for (const double v : values) most = std::max(most, std::abs(v));
    const double scale = smallest_scale(most, f);
    for (double& v : values) v = rounds ? nearest(v / scale, f) * scale : v;
    return values;
  };
  for (const auto& [m, n, k] : {std::tuple{16, 32, 48}, {64, 16, 16}, {16, 33, 48}}) {
    const bool rounds = n % 16 == 0;
    for (int flags = 0; flags < 8; ++flags) {
      const bool ta = flags & 1, tb = flags & 2, accumulate = flags & 4;
      const Format &fa = kFormats[flags % 2], &fb = kFormats[flags % 2 == 0 ? flags / 4 : 0];
      const Tensor a =
          random_tensor(*arena, DType::kBF16, ta ? Shape{k, m} : Shape{m, k}, 1, 1e-3f);
      const Tensor b =
          random_tensor(*arena, DType::kBF16, tb ? Shape{n, k} : Shape{k, n}, 2, 50.0f);
      const Tensor c = random_tensor(*arena, DType::kF32, Shape{m, n}, 3);
      const Tensor bias = random_tensor(*arena, DType::kBF16, Shape{n}, 4);
      std::vector<double> want = values_of(c);
      const std::vector<double> av = rounded(a, fa, rounds), bv = rounded(b, fb, rounds),
                                bias_values = values_of(bias);
      for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
          double sum = accumulate ? want[static_cast<std::size_t>(i * n + j)]
                                  : bias_values[static_cast<std::size_t>(j)];
          for (int l = 0; l < k; ++l) {
            sum += av[static_cast<std::size_t>(ta ? l * m + i : i * k + l)] *
                   bv[static_cast<std::size_t>(tb ? j * k + l : l * n + j)];
          }
          want[static_cast<std::size_t>(i * n + j)] = sum;
        }
      }
      ops::matmul(*arena, {a, ta}, {b, tb}, c,
                  {.accumulate = accumulate,
                   .bias = accumulate ? nullptr : &bias,
                   .fp8 = ops::Fp8Operands{fa.format, fb.format}});
      expect_close(values_of(c), want, 1e-5, "matmul");
    }
  }
}

TEST(Fp8Test, WhatIsNotFiniteStaysSo) {
  const auto arena = Arena::make_cpu(1 << 22);
  for (const float bad : {INFINITY, std::nanf("")}) {
    const Tensor f = random_tensor(*arena, DType::kF32, Shape{16, 16}, 1),
                 a = Tensor::empty(*arena, MemoryTag::kActivations, DType::kBF16, Shape{16, 16}),
                 c = Tensor::empty(*arena, MemoryTag::kActivations, DType::kF32, Shape{16, 16});
    f.data<float>()[3 * 16 + 5] = bad;
    ops::cast(a, f);
    ops::matmul(*arena, {a}, {a, true}, c, {.fp8 = ops::Fp8Operands{}});
    for (int j = 0; j < 16; ++j) EXPECT_TRUE(std::isnan(c.data<float>()[3 * 16 + j]));
  }
}

}  // namespace
}  // namespace thimble
