#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

TEST(BenchDisk, MeasuresAndLeavesNothingBehind) {
  const ProgramDir d{std::filesystem::temp_directory_path()};
  fs::create_directory(d.path("disk"));
  EXPECT_EQ(d.run("bench disk --dir disk --size 16MiB --seconds 0.5 --json"), 0) << d.err();
  const auto result = d.json();
  EXPECT_FALSE(result["rates"].empty());
  EXPECT_GT(result["best"]["mixed_mb_per_s"], 0.0);
  EXPECT_FALSE(result["file_system"].get<std::string>().empty());
  EXPECT_NE(result["registered"].get<bool>(),
            !result["why_unregistered"].get<std::string>().empty());
  EXPECT_EQ(d.run("bench disk --dir disk --size 16MiB --seconds 0.5"), 0) << d.err();
  EXPECT_NE(d.out().find("best mixed: "), std::string::npos);
  EXPECT_TRUE(fs::is_empty(d.path("disk")));
}

TEST(BenchDisk, MemoryIsWarnedOf) {
  const ProgramDir d{std::filesystem::temp_directory_path()};
  EXPECT_EQ(d.run("bench disk --dir /dev/shm --size 8MiB --seconds 0.1 --json"), 0) << d.err();
  const auto result = d.json();
  EXPECT_EQ(result["file_system"], "tmpfs");
  EXPECT_EQ(result["direct"], false);
  ASSERT_EQ(result["warnings"].size(), 1u);
  EXPECT_NE(result["warnings"][0].get<std::string>().find("in memory"), std::string::npos);
}

TEST(BenchDisk, MistakesAreNamed) {
  const ProgramDir d{std::filesystem::temp_directory_path()};
  const auto expect_mistake = [&](const std::string& arguments, const std::string& part) {
    EXPECT_EQ(d.run("bench disk " + arguments), 2) << arguments;
    const std::string error = d.err();
    EXPECT_NE(error.find(part), std::string::npos) << arguments << ": " << error;
    EXPECT_EQ(std::count(error.begin(), error.end(), '\n'), 1) << error;
    EXPECT_EQ(d.out(), "") << arguments;
  };
  expect_mistake("--size much", "--size 'much': a size as 512MiB or 1GiB is needed");
  expect_mistake("--size 1000000TB", "may take half of the");
  expect_mistake("--size 4MiB", "takes at least 8.0 MiB, two requests");
  expect_mistake("--seconds 0", "--seconds");
  expect_mistake("--dir nowhere", "nowhere");
}

}  // namespace
}  // namespace thimble
