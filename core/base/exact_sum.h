// Sums of doubles without rounding, so that neither the order of the terms nor the way they are
// spread over ranks can change a bit of the result. A fixed-point number wide enough for every
// double; as wide as it is, it is meant for thousands of terms (sums of rows), not for every
// element.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace thimble {

class ExactSum {
 public:
  /// 67 limbs of 32 bits span 2^-1074 .. 2^1023 with room above; then counts of +inf, -inf and NaN.
  static constexpr int kDigits = 67;
  static constexpr int kWords = kDigits + 3;

  void add(double value);
  void add(const ExactSum& other);

  /// The sum rounded to a double; infinite or NaN if a term was (opposite infinities give NaN).
  double value() const;

  /// The state as integers: adding those of several sums word by word gives the state of their
  /// total. At most 2^30 sums may be added between two calls of words().
  std::span<const std::int64_t, kWords> words();
  static ExactSum from_words(std::span<const std::int64_t, kWords> words);

 private:
  void carry();

  std::array<std::int64_t, kWords> words_{};
  std::int32_t pending_ = 0;  // additions since the last carry()
};

}  // namespace thimble
