#include "core/base/numeric.h"

#include <cmath>

namespace thimble {

std::string format_bytes(std::int64_t bytes) {
  const double value = static_cast<double>(bytes);
  const double magnitude = std::abs(value);
  if (magnitude >= static_cast<double>(kGiB)) {
    return fmt::format("{:.2f} GiB", value / static_cast<double>(kGiB));
  }
  if (magnitude >= static_cast<double>(kMiB)) {
    return fmt::format("{:.1f} MiB", value / static_cast<double>(kMiB));
  }
  if (magnitude >= static_cast<double>(kKiB)) {
    return fmt::format("{:.1f} KiB", value / static_cast<double>(kKiB));
  }
  return fmt::format("{} B", bytes);
}

std::string format_duration(double seconds) {
  if (!(seconds >= 0) || !std::isfinite(seconds)) return "unknown";
  const auto total = static_cast<std::int64_t>(seconds + 0.5);
  if (total >= 3600) return fmt::format("{} h {:02} min", total / 3600, total / 60 % 60);
  if (total >= 60) return fmt::format("{} min {:02} s", total / 60, total % 60);
  return fmt::format("{} s", total);
}

}  // namespace thimble
