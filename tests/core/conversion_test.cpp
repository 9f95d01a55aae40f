// Number formats bit by bit: every 16-bit pattern, rounding to bf16 from all kinds of f32, Philox's
// known answers.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/base/random.h"
#include "core/ops/cpu/isa_kernels.h"

namespace thimble {
namespace {

// The kernels of every instruction set this CPU has.
std::vector<const IsaKernels*> all_kernels() {
  std::vector<const IsaKernels*> all{&avx2::isa_kernels()};
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    all.push_back(&avx512::isa_kernels());
  }
  return all;
}

std::vector<std::uint16_t> all_patterns() {
  std::vector<std::uint16_t> patterns(65536);
  for (std::size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<std::uint16_t>(i);
  return patterns;
}

// The number a pattern of sign, exponent and mantissa bits stands for; infinities and NaN are the
// caller's.
double value_of(std::uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int exponent = static_cast<int>(bits >> mantissa_bits & ((1u << exponent_bits) - 1));
  const double mantissa =
      static_cast<double>(bits & ((1u << mantissa_bits) - 1)) / (1 << mantissa_bits);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double size =
      exponent == 0 ? std::ldexp(mantissa, 1 - bias) : std::ldexp(1 + mantissa, exponent - bias);
  return (bits >> (exponent_bits + mantissa_bits) & 1u) != 0 ? -size : size;
}

// The nearest bf16, ties to the even one, found by comparing distances to both neighbours.
std::uint16_t nearest_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto down = static_cast<std::uint16_t>(bits >> 16),
             up = static_cast<std::uint16_t>(down + 1);
  if (std::isinf(value)) return down;
  const double exact = std::abs(static_cast<double>(value));
  const double below = std::abs(value_of(down, 8, 7)),
               above = std::abs(value_of(up, 8, 7));  // 2^128 for infinity
  if (exact - below < above - exact) return down;
  if (exact - below > above - exact) return up;
  return down % 2 == 0 ? down : up;
}

void expect_same_number(float got, double want, bool is_nan, std::uint32_t pattern) {
  if (is_nan) {
    EXPECT_TRUE(std::isnan(got)) << pattern;
  } else {
    EXPECT_EQ(std::bit_cast<std::uint64_t>(static_cast<double>(got)),
              std::bit_cast<std::uint64_t>(want))
        << pattern;
  }
}

TEST(Formats, EveryBf16ToF32AndBack) {
  const auto patterns = all_patterns();
  for (const IsaKernels* k : all_kernels()) {
    std::vector<float> floats(patterns.size());
    k->cast(floats.data(), DType::kF32, patterns.data(), DType::kBF16, 65536);
    std::vector<std::uint16_t> back(patterns.size());
    k->cast(back.data(), DType::kBF16, floats.data(), DType::kF32, 65536);
    for (std::uint32_t i = 0; i < 65536; ++i) {
      const bool infinite = (i & 0x7FFFu) == 0x7F80u, nan = (i & 0x7FFFu) > 0x7F80u;
      const double infinity = i > 0x8000u ? -HUGE_VAL : HUGE_VAL;
      expect_same_number(floats[i], infinite ? infinity : value_of(i, 8, 7), nan, i);
      EXPECT_EQ(back[i], nan ? i | 0x40u : i);  // a NaN stays one, and keeps its payload
      const float scalar = to_float(BF16{static_cast<std::uint16_t>(i)});
      EXPECT_EQ(std::memcmp(&scalar, &floats[i], 4), 0) << i;
    }
  }
}

TEST(Formats, EveryF16ToF32AndBf16) {
  const auto patterns = all_patterns();
  for (const IsaKernels* k : all_kernels()) {
    std::vector<float> floats(patterns.size());
    std::vector<BF16> rounded(patterns.size());
    k->cast(floats.data(), DType::kF32, patterns.data(), DType::kF16, 65536);
    k->cast(rounded.data(), DType::kBF16, patterns.data(), DType::kF16, 65536);
    for (std::uint32_t i = 0; i < 65536; ++i) {
      const bool infinite = (i & 0x7FFFu) == 0x7C00u, nan = (i & 0x7FFFu) > 0x7C00u;
      const double infinity = i > 0x8000u ? -HUGE_VAL : HUGE_VAL;
      expect_same_number(floats[i], infinite ? infinity : value_of(i, 5, 10), nan, i);
      EXPECT_EQ(rounded[i].bits, to_bf16(floats[i]).bits) << i;
      EXPECT_TRUE(nan || rounded[i].bits == nearest_bf16(floats[i])) << i;
    }
  }
}

TEST(Formats, F32RoundsToTheNearestBf16AndTiesToEven) {
  std::vector<float> values;
  const CounterRandom random(1, RandomPurpose::kSampling);
  for (std::uint64_t i = 0; i < 300'001; ++i) values.push_back(std::bit_cast<float>(random.u32(i)));
  for (std::uint32_t high = 0; high < 65536;
       ++high) {  // exact, below, on and above every tie, and the next one's edge
    for (const std::uint32_t low : {0x0000u, 0x0001u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu}) {
      values.push_back(std::bit_cast<float>(high << 16 | low));
    }
  }
  const auto n = static_cast<std::int64_t>(values.size());
  std::vector<BF16> first;
  for (const IsaKernels* k : all_kernels()) {
    std::vector<BF16> got(values.size());
    k->cast(got.data(), DType::kBF16, values.data(), DType::kF32, n);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const bool right = std::isnan(values[i])
                             ? std::isnan(to_float(got[i])) && (got[i].bits & 0x40u) != 0
                             : got[i].bits == nearest_bf16(values[i]);
      if (!right || got[i].bits != to_bf16(values[i]).bits) ++wrong;
    }
    EXPECT_EQ(wrong, 0u);
  }
}

TEST(Formats, CastsOfEveryShortLengthTouchNothingElse) {
  for (const IsaKernels* k : all_kernels()) {
    for (std::int64_t n = 0; n <= 70; ++n) {
      std::vector<float> in(71, 1.00390625f);  // a tie: 1 + 2^-8
      std::vector<std::uint16_t> out(71, 0xABCD);
      k->cast(out.data(), DType::kBF16, in.data(), DType::kF32, n);
      for (std::int64_t i = 0; i <= 70; ++i)
        EXPECT_EQ(out[static_cast<std::size_t>(i)], i < n ? 0x3F80 : 0xABCD);
    }
  }
}

// A stream whose Philox key is `key`: mix64 is a bijection of its second argument.
CounterRandom with_key(std::uint64_t key, std::uint64_t index) {
  const auto inverse_of_odd = [](std::uint64_t a) {
    std::uint64_t x = a;
    for (int i = 0; i < 6; ++i) x *= 2 - a * x;  // Newton, doubling the correct bits
    return x;
  };
  const auto undo_shift = [](std::uint64_t z, int shift) {
    return z ^ (z >> shift) ^ (z >> 2 * shift);
  };
  std::uint64_t z = undo_shift(key, 31);
  z = undo_shift(z * inverse_of_odd(0x94d049bb133111ebull), 27);
  z = undo_shift(z * inverse_of_odd(0xbf58476d1ce4e5b9ull), 30);
  const std::uint64_t seed = mix64(7, static_cast<std::uint64_t>(RandomPurpose::kInit));
  const std::uint64_t subject = (z - seed) * inverse_of_odd(0x9e3779b97f4a7c15ull) - 1;
  EXPECT_EQ(mix64(seed, subject), key);
  return {7, RandomPurpose::kInit, subject, index};
}

// The vectors published with Random123 for philox4x32, 10 rounds.
TEST(Philox, KnownAnswers) {
  using Words = std::array<std::uint32_t, 4>;
  EXPECT_EQ(with_key(0, 0).block(0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const std::uint64_t ones = ~std::uint64_t{0};
  EXPECT_EQ(with_key(ones, ones).block(ones),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(with_key(0x299f31d0a4093822, 0x0370734413198a2e).block(0x85a308d3243f6a88),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, DrawsHaveTheirDistribution) {
  const CounterRandom random(3, RandomPurpose::kInit, hash_name("w"));
  double uniform = 0, normal = 0, square = 0, fourth = 0;
  constexpr int kDraws = 200'000;
  for (std::uint64_t i = 0; i < kDraws; ++i) {
    const double u = static_cast<double>(random.uniform(i)),
                 z = static_cast<double>(random.normal(i));
    ASSERT_TRUE(u >= 0 && u < 1 && std::abs(z) < 6.7);
    uniform += u, normal += z, square += z * z, fourth += z * z * z * z;
  }
  EXPECT_LT(std::abs(uniform / kDraws - 0.5), 0.005);  // about seven standard errors each
  EXPECT_LT(std::abs(normal / kDraws), 0.016);
  EXPECT_LT(std::abs(square / kDraws - 1), 0.022);
  EXPECT_LT(std::abs(fourth / kDraws - 3), 0.16);
}

}  // namespace
}  // namespace thimble
