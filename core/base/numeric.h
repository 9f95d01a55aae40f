// Small integer helpers used everywhere: checked narrowing, rounding up, byte units.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "core/base/error.h"

namespace thimble {

inline constexpr std::int64_t kKiB = std::int64_t{1} << 10;
inline constexpr std::int64_t kMiB = std::int64_t{1} << 20;
inline constexpr std::int64_t kGiB = std::int64_t{1} << 30;

/// Converts between integer types; throws LogicError if the value does not survive.
template <typename To, typename From>
To narrow(From value) {
  TH_CHECK(std::in_range<To>(value), "value does not fit the narrower type");
  return static_cast<To>(value);
}

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}
inline std::int64_t round_up(std::int64_t a, std::int64_t multiple) {
  return ceil_div(a, multiple) * multiple;
}

/// "1.50 GiB", "12.0 MiB", "640 B": at most four significant digits, binary units.
std::string format_bytes(std::int64_t bytes);

/// "2 h 03 min", "4 min 10 s", "12 s".
std::string format_duration(double seconds);

}  // namespace thimble
