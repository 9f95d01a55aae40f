// Rates that are kept for a day: of this host, by name, and never trusted blindly.
#include "launcher/run/kept_rates.h"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "launcher/run/machine.h"
#include "tests/launcher/run_temp_dir.h"

namespace thimble {
namespace {

std::int64_t seconds_since_1970() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

TEST(KeptRates, AreMeasuredOnce) {
  const TempDir dir("rates");
  const auto file = dir.path() / "cache" / "rates.json";
  int measured = 0;
  const auto measure = [&] { return 1e9 + ++measured; };
  EXPECT_EQ(kept_rate(file, "disk a", measure).value, 1e9 + 1);
  EXPECT_EQ(kept_rate(file, "disk a", measure).value, 1e9 + 1);
  EXPECT_EQ(kept_rate(file, "disk b", measure).value, 1e9 + 2);
  EXPECT_EQ(kept_rate(file, "disk a", measure).value, 1e9 + 1) << "both are kept";
  EXPECT_EQ(kept_rate({}, "disk a", measure).value, 1e9 + 3) << "there is no file";
  EXPECT_EQ(kept_rate(dir.path(), "disk a", measure).value, 1e9 + 4) << "a directory";
}

TEST(KeptRates, ThatAreOldOrNoneAreMeasuredAgain) {
  const TempDir dir("rates");
  const auto file = dir.path() / "rates.json";
  const auto measure = [] { return 5.0; };
  const auto kept = [&](const nlohmann::json& entry) {
    std::ofstream(file, std::ios::trunc) << nlohmann::json{{host_name() + " disk", entry}}.dump();
    return kept_rate(file, "disk", measure);
  };
  const std::int64_t now = seconds_since_1970();
  const KeptRate young = kept({{"rate", 7.5}, {"at", now - 3600}});
  EXPECT_EQ(young.value, 7.5);
  EXPECT_GE(young.age_s, 3600);
  EXPECT_EQ(young.from(), "measured here 60 min ago");
  EXPECT_EQ(kept({{"rate", 7.5}, {"at", now - 25 * 3600}}).value, 5) << "old";
  EXPECT_EQ(kept({{"rate", 7.5}, {"at", now + 3600}}).value, 5) << "of a clock that was set back";
  EXPECT_EQ(kept({{"rate", -1}, {"at", now}}).value, 5);
  EXPECT_EQ(kept({{"rate", "fast"}, {"at", now}}).value, 5);
  EXPECT_EQ(kept(3).value, 5);
  std::ofstream(file, std::ios::trunc) << "{";
  EXPECT_EQ(kept_rate(file, "disk", measure).from(), "measured here");
  EXPECT_EQ(kept_rate(file, "nothing", [] { return 0.0; }).value, 0);
  EXPECT_EQ(kept_rate(file, "nothing", measure).value, 5) << "a failure is not kept";
}

}  // namespace
}  // namespace thimble
