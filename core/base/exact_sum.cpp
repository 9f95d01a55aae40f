#include "core/base/exact_sum.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace thimble {
namespace {

constexpr int kDigitBits = 32;
constexpr std::int64_t kBase = std::int64_t{1} << kDigitBits;
constexpr int kLowestExponent = -1074;  // of the least significant bit
constexpr std::int32_t kMostPending = 1 << 29;

enum Special : std::size_t { kPlusInf = ExactSum::kDigits, kMinusInf, kNan };

}  // namespace

void ExactSum::add(double value) {
  if (!std::isfinite(value)) {
    ++words_[std::isnan(value) ? kNan : value > 0 ? kPlusInf : kMinusInf];
    return;
  }
  if (value == 0) return;
  if (++pending_ >= kMostPending) carry();
  int exponent = 0;
  const double fraction = std::frexp(value, &exponent);  // value = fraction * 2^exponent
  auto mantissa = static_cast<std::int64_t>(std::ldexp(fraction, 53));
  int shift = exponent - 53 - kLowestExponent;
  if (shift < 0) {  // subnormal: the bits below 2^-1074 are zero
    mantissa /= std::int64_t{1} << -shift;
    shift = 0;
  }
  const auto digit = static_cast<std::size_t>(shift / kDigitBits);
  const std::int64_t sign = mantissa < 0 ? -1 : 1;
  const auto bits = static_cast<unsigned __int128>(static_cast<std::uint64_t>(mantissa * sign))
                    << shift % kDigitBits;
  for (std::size_t i = 0; i < 3; ++i) {
    words_[digit + i] +=
        sign *
        static_cast<std::int64_t>(static_cast<std::uint64_t>(bits >> kDigitBits * i) & 0xffffffffu);
  }
}

void ExactSum::add(const ExactSum& other) {
  ExactSum copy = other;
  carry();
  copy.carry();
  for (std::size_t i = 0; i < kWords; ++i) words_[i] += copy.words_[i];
  pending_ = 1;
}

// Every digit but the highest into [0, 2^32): the form is unique, whatever the order of the
// additions.
void ExactSum::carry() {
  for (std::size_t i = 0; i + 1 < kDigits; ++i) {
    std::int64_t up = words_[i] / kBase;
    if (words_[i] % kBase < 0) --up;
    words_[i] -= up * kBase;
    words_[i + 1] += up;
  }
  pending_ = 0;
}

double ExactSum::value() const {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  if (words_[kNan] > 0 || (words_[kPlusInf] > 0 && words_[kMinusInf] > 0)) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  if (words_[kPlusInf] > 0) return kInf;
  if (words_[kMinusInf] > 0) return -kInf;
  ExactSum copy = *this;
  copy.carry();
  const bool negative = copy.words_[kDigits - 1] < 0;
  if (negative) {
    for (std::size_t i = 0; i < kDigits; ++i) copy.words_[i] = -copy.words_[i];
    copy.carry();
  }
  // From the top: three digits hold more than the 53 bits of a double, a fourth decides ties well
  // enough.
  double total = 0;
  int used = 0;
  for (int i = kDigits - 1; i >= 0 && used < 4; --i) {
    const auto word = static_cast<double>(copy.words_[static_cast<std::size_t>(i)]);
    if (used == 0 && word == 0) continue;
    total += std::ldexp(word, i * kDigitBits + kLowestExponent);
    ++used;
  }
  return negative ? -total : total;
}

std::span<const std::int64_t, ExactSum::kWords> ExactSum::words() {
  carry();
  return words_;
}

ExactSum ExactSum::from_words(std::span<const std::int64_t, kWords> words) {
  ExactSum sum;
  std::copy(words.begin(), words.end(), sum.words_.begin());
  sum.carry();
  return sum;
}

}  // namespace thimble
