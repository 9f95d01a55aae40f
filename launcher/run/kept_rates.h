// Rates of this machine as they were measured here not long ago, so that a plan need not measure
// them again. It measures nothing itself.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace thimble {

struct KeptRate {
  double value = 0;
  std::int64_t age_s = 0;  // 0: measured now

  /// "measured here", or "measured here 20 min ago".
  std::string from() const;
};

/// $XDG_CACHE_HOME/thimble/rates.json, or that in ~/.cache; empty: the process has no home.
std::filesystem::path rates_file();

/// The rate `name` of this host from the file, if it was measured within a day; otherwise what
/// measure() returns, which is kept there unless it is 0. A file that cannot be read or written is
/// none; an empty path too.
KeptRate kept_rate(const std::filesystem::path& file, const std::string& name,
                   const std::function<double()>& measure);

}  // namespace thimble
