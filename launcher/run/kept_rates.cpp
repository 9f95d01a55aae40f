#include "launcher/run/kept_rates.h"

#include <fmt/core.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "core/base/numeric.h"
#include "core/io/file.h"
#include "launcher/run/machine.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::int64_t kDay = 24 * 3600;

std::int64_t seconds_now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

Json read_rates(const fs::path& file) {
  try {
    Json all = Json::parse(read_text_file(file, kMiB), nullptr, false);
    if (all.is_object()) return all;
  } catch (const std::runtime_error&) {
    // It is not there yet.
  }
  return Json::object();
}

bool is_rate(const Json& entry, std::int64_t now) {
  if (!entry.is_object() || !entry.contains("rate") || !entry.contains("at")) return false;
  if (!entry["rate"].is_number() || !entry["at"].is_number_integer()) return false;
  const auto rate = entry["rate"].get<double>();
  const auto at = entry["at"].get<std::int64_t>();
  return std::isfinite(rate) && rate > 0 && at <= now && now - at < kDay;
}

}  // namespace

std::string KeptRate::from() const {
  constexpr std::int64_t kMinute = 60;
  if (age_s < kMinute) return "measured here";
  return fmt::format("measured here {} min ago", age_s / kMinute);
}

fs::path rates_file() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache != '\0') return fs::path(cache) / "thimble" / "rates.json";
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') return {};
  return fs::path(home) / ".cache" / "thimble" / "rates.json";
}

KeptRate kept_rate(const fs::path& file, const std::string& name,
                   const std::function<double()>& measure) {
  if (file.empty()) return {measure()};
  // A home may be that of several machines.
  const std::string key = host_name() + " " + name;
  const std::int64_t now = seconds_now();
  const Json before = read_rates(file);
  if (const auto found = before.find(key); found != before.end() && is_rate(*found, now))
    return {(*found)["rate"].get<double>(), now - (*found)["at"].get<std::int64_t>()};
  const double rate = measure();
  if (!(rate > 0)) return {rate};
  // Others may have written meanwhile.
  Json kept = Json::object();
  const Json there = read_rates(file);
  for (const auto& [other, entry] : there.items()) {
    if (is_rate(entry, now)) kept[other] = entry;
  }
  kept[key] = {{"rate", rate}, {"at", now}};
  try {
    fs::create_directories(file.parent_path());
    write_file_atomic(file, kept.dump(1) + "\n");
  } catch (const std::runtime_error&) {
    // It is measured again next time.
  }
  return {rate};
}

}  // namespace thimble
