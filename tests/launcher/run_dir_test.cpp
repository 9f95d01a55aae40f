#include "launcher/run/run_dir.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "launcher/run/machine.h"
#include "tests/launcher/run_temp_dir.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

void expect_user_error(const RunDir::Options& options, const std::string& part) {
  try {
    RunDir::open(options);
    FAIL() << "no error";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(RunDir, MakesItsFolders) {
  const TempDir temp("run");
  const RunDir run = RunDir::open({.output_dir = temp.path() / "a" / "runs", .name = "x"});
  EXPECT_EQ(run.path(), temp.path() / "a" / "runs" / "x");
  EXPECT_TRUE(fs::is_directory(run.checkpoints()));
  EXPECT_TRUE(fs::is_directory(run.logs()));
  EXPECT_FALSE(run.moved_to().has_value());
}

TEST(RunDir, SecondProcessIsToldWhoHoldsIt) {
  const TempDir temp("run");
  const RunDir::Options options{.output_dir = temp.path(), .name = "x"};
  const RunDir run = RunDir::open(options);
  expect_user_error(options, "x is in use by process " + std::to_string(::getpid()));
  expect_user_error({temp.path(), "x", true}, "is in use by process");
  EXPECT_TRUE(fs::exists(temp.path() / "x")) << "a held run must not be moved aside";
}

TEST(RunDir, LockEndsWithTheObject) {
  const TempDir temp("run");
  const RunDir::Options options{.output_dir = temp.path(), .name = "x"};
  { const RunDir run = RunDir::open(options); }
  EXPECT_NO_THROW(RunDir::open(options));
}

TEST(RunDir, LockEndsWithAKilledProcess) {
  const TempDir temp("run");
  const RunDir::Options options{.output_dir = temp.path(), .name = "x"};
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const RunDir run = RunDir::open(options);
    [[maybe_unused]] const auto put = ::write(ready[1], "r", 1);
    for (;;) ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  expect_user_error(options, "in use by process " + std::to_string(child));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
  EXPECT_NO_THROW(RunDir::open(options));
}

TEST(RunDir, FreshMovesEarlierRunsAside) {
  const TempDir temp("run");
  { const RunDir run = RunDir::open({temp.path(), "x", true}); }
  EXPECT_TRUE(fs::exists(temp.path() / "x" / "checkpoints"));
  for (int number = 1; number <= 2; ++number) {
    std::ofstream(temp.path() / "x" / "mark") << number;
    const RunDir run = RunDir::open({temp.path(), "x", true});
    const fs::path old = temp.path() / ("x.old-" + std::to_string(number));
    EXPECT_EQ(run.moved_to(), old);
    EXPECT_EQ(read_all(old / "mark"), std::to_string(number));
    EXPECT_FALSE(fs::exists(run.path() / "mark"));
    expect_user_error({temp.path(), "x"}, "in use");
  }
}

TEST(RunDir, RefusesNamesThatLeaveTheOutputDirectory) {
  const TempDir temp("run");
  for (const char* name : {"", ".", "..", "a/b", "/x", "../x"}) {
    expect_user_error({temp.path(), name}, "one plain file name");
  }
}

TEST(RunDir, AFileInTheWayIsAUserError) {
  const TempDir temp("run");
  std::ofstream(temp.path() / "x") << "file";
  expect_user_error({temp.path(), "x"}, "cannot create the directory");
}

TEST(RunDir, EveryStartIsRecorded) {
  const TempDir temp("run");
  const RunDir run = RunDir::open({.output_dir = temp.path(), .name = "x"});
  const Machine machine = probe_machine();
  ::setenv("THIMBLE_TEST_VARIABLE", "a=b", 1);
  run.record_start({.command_line = {"thimble", "train", "\xff.toml"}, .version = "0.1.0"},
                   machine);
  ::unsetenv("THIMBLE_TEST_VARIABLE");
  run.record_start({.version = "0.1.0", .resumed_step = 7, .content = {{"data.train[0]", "12ab"}}},
                   machine);
  const auto starts = nlohmann::json::parse(read_all(run.path() / "run.json"))["starts"];
  ASSERT_EQ(starts.size(), 2u);
  EXPECT_EQ(starts[0]["command_line"][1], "train");
  EXPECT_TRUE(starts[0]["resumed_step"].is_null());
  EXPECT_EQ(starts[0]["environment"]["THIMBLE_TEST_VARIABLE"], "a=b");
  EXPECT_EQ(starts[0]["pid"], ::getpid());
  EXPECT_EQ(starts[0]["time"].get<std::string>().size(), 20u);
  EXPECT_EQ(starts[1]["resumed_step"], 7);
  EXPECT_EQ(starts[1]["content"]["data.train[0]"], "12ab");
  EXPECT_EQ(run.recorded_content().at("data.train[0]"), "12ab");
  EXPECT_FALSE(starts[1]["environment"].contains("THIMBLE_TEST_VARIABLE"));
  EXPECT_EQ(starts[1]["machine"]["cores"], machine.cores.usable);
}

TEST(RunDir, DamagedRecordIsKeptAside) {
  const TempDir temp("run");
  const RunDir run = RunDir::open({.output_dir = temp.path(), .name = "x"});
  int number = 0;
  for (const char* text : {"{\"starts\":[", "[]", "{\"starts\":3}", ""}) {
    std::ofstream(run.path() / "run.json") << text;
    run.record_start({.version = "0.1.0"}, probe_machine());
    EXPECT_EQ(read_all(run.path() / fmt::format("run.json.old-{}", ++number)), text);
    EXPECT_EQ(nlohmann::json::parse(read_all(run.path() / "run.json"))["starts"].size(), 1u);
  }
}

}  // namespace
}  // namespace thimble
