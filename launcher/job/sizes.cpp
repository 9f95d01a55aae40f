#include "launcher/job/sizes.h"

#include <array>
#include <charconv>
#include <cmath>

#include "core/base/error.h"

namespace thimble::job {
namespace {

struct Unit {
  std::string_view name;
  std::int64_t bytes;
};

// Largest first within a family, so that the first exact divisor is the shortest spelling.
constexpr std::array kUnits{
    Unit{"TiB", std::int64_t{1} << 40},
    Unit{"TB", 1'000'000'000'000},
    Unit{"GiB", std::int64_t{1} << 30},
    Unit{"GB", 1'000'000'000},
    Unit{"MiB", std::int64_t{1} << 20},
    Unit{"MB", 1'000'000},
    Unit{"KiB", std::int64_t{1} << 10},
    Unit{"kB", 1'000},
    Unit{"KB", 1'000},
    Unit{"B", 1},
};

const Unit* find_unit(std::string_view name) {
  for (const Unit& unit : kUnits) {
    if (unit.name == name) return &unit;
  }
  return nullptr;
}

}  // namespace

std::optional<ByteSize> parse_size(std::string_view text) {
  std::size_t digits = 0;
  while (digits < text.size() &&
         (text[digits] == '.' || (text[digits] >= '0' && text[digits] <= '9'))) {
    ++digits;
  }
  std::string_view unit_name = text.substr(digits);
  while (!unit_name.empty() && unit_name.front() == ' ') unit_name.remove_prefix(1);
  const Unit* unit = find_unit(unit_name);
  if (digits == 0 || unit == nullptr) return std::nullopt;

  const char* end = text.data() + digits;
  std::int64_t whole = 0;
  if (const auto [rest, error] = std::from_chars(text.data(), end, whole);
      error == std::errc{} && rest == end) {
    std::int64_t bytes = 0;
    if (__builtin_mul_overflow(whole, unit->bytes, &bytes)) return std::nullopt;
    return ByteSize{bytes};
  }
  double number = 0;
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc{} || rest != end) return std::nullopt;
  const double bytes = number * static_cast<double>(unit->bytes);
  if (!(bytes < 0x1p63)) return std::nullopt;
  return ByteSize{static_cast<std::int64_t>(bytes)};
}

std::string format_size(ByteSize size) {
  for (const Unit& unit : kUnits) {
    if (size.bytes != 0 && size.bytes % unit.bytes == 0) {
      return fmt::format("{}{}", size.bytes / unit.bytes, unit.name);
    }
  }
  return "0B";
}

}  // namespace thimble::job
