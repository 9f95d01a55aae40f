#include "offload/disk_speed.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "core/base/error.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

DiskSpeedOptions little(const fs::path& directory) {
  return {.directory = directory,
          .size_bytes = 8 * kMiB,
          .seconds = 0.05,
          .queue_depths = {1, 3},
          .request_bytes = {kMiB, 2 * kMiB}};
}

bool is_rate(double value) {
  return value > 0 && std::isfinite(value);
}

void expect_complete(const DiskSpeed& speed) {
  ASSERT_FALSE(speed.rates.empty());
  EXPECT_LE(speed.rates.size(), 4u);
  double highest = 0;
  for (const DiskRates& rates : speed.rates) {
    EXPECT_TRUE(is_rate(rates.read) && is_rate(rates.write) && is_rate(rates.mixed));
    EXPECT_TRUE(rates.queue_depth == 1 || rates.queue_depth == 3);
    EXPECT_TRUE(rates.request_bytes == kMiB || rates.request_bytes == 2 * kMiB);
    highest = std::max(highest, rates.mixed);
  }
  EXPECT_EQ(speed.best.mixed, highest);
  EXPECT_GE(speed.size_bytes, 4 * kMiB);
  EXPECT_LE(speed.size_bytes, 8 * kMiB);
  EXPECT_FALSE(speed.file_system.name.empty());
  EXPECT_FALSE(speed.engine.empty());
}

TEST(DiskSpeedTest, MeasuresAndLeavesNothingBehind) {
  for (const FileEngineKind kind : {FileEngineKind::kAuto, FileEngineKind::kThreads}) {
    const TempDir dir;
    DiskSpeedOptions options = little(dir.path());
    options.engine = kind;
    const DiskSpeed speed = measure_disk_speed(options);
    expect_complete(speed);
    EXPECT_TRUE(fs::is_empty(dir.path()));
    EXPECT_TRUE(kind == FileEngineKind::kAuto || speed.engine == "threads");
  }
}

TEST(DiskSpeedTest, MemoryIsMeasuredThroughThePageCache) {
  const testing::MemoryDir dir;
  const DiskSpeed speed = measure_disk_speed(little(dir.path()));
  expect_complete(speed);
  EXPECT_FALSE(speed.direct);
  EXPECT_EQ(speed.file_system.name, "tmpfs");
  EXPECT_TRUE(speed.file_system.in_memory);
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(DiskSpeedTest, TheFirstRatesAreThereHoweverLittleTime) {
  const TempDir dir;
  DiskSpeedOptions options = little(dir.path());
  options.seconds = 1e-9;
  const DiskSpeed speed = measure_disk_speed(options);
  expect_complete(speed);
  EXPECT_EQ(speed.rates.size(), 1u);
  EXPECT_EQ(speed.size_bytes, 4 * kMiB);
}

TEST(DiskSpeedTest, MistakesAreNamed) {
  const TempDir dir;
  DiskSpeedOptions options = little(dir.path());
  options.size_bytes = std::int64_t{1} << 60;
  EXPECT_THROWS_WITH(UserError, "may take half of the", measure_disk_speed(options));
  options.size_bytes = 4 * kMiB - 1;
  EXPECT_THROWS_WITH(UserError, "takes at least 4.0 MiB, two requests",
                     measure_disk_speed(options));
  options = little(dir.path());
  options.seconds = 0;
  EXPECT_THROWS_WITH(UserError, "seconds 0: ", measure_disk_speed(options));
  options.seconds = std::nan("");
  EXPECT_THROWS_WITH(UserError, "seconds nan: ", measure_disk_speed(options));
  EXPECT_THROWS_WITH(UserError, "/nowhere: No such file", measure_disk_speed(little("/nowhere")));
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(DiskSpeedTest, AFailingDiskLeavesNothingBehind) {
  // Re-executed, because the point is armed once per process.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const char* point : {"io.write:3:enospc", "io.read:2:eio"}) {
    EXPECT_EXIT(
        {
          ::setenv("THIMBLE_FAILPOINT", point, 1);
          const TempDir dir;
          const std::string message =
              testing::message_of<SystemError>([&] { measure_disk_speed(little(dir.path())); });
          std::fputs(message.c_str(), stderr);
          const bool empty = fs::is_empty(dir.path());
          remove_tree(dir.path());
          std::_Exit(empty ? 7 : 1);
        },
        ::testing::ExitedWithCode(7), "failpoint io");
  }
}

}  // namespace
}  // namespace thimble
