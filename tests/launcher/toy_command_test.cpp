// A command is one function that adds it: a command that exists only here is run, explained and
// reports its mistakes like any other.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <array>

#include "core/base/error.h"
#include "launcher/commands/command.h"

namespace thimble {
namespace {

void add_whistle_command(CLI::App& app, CommandSession& session) {
  auto times = std::make_shared<int>(1);
  CLI::App* whistle = app.add_subcommand("whistle", "Whistle, for tests");
  whistle->add_option("--times", *times, "How often");
  whistle->callback([times, &session] {
    session.start();
    if (*times < 0) throw_user("whistle: --times {}: allowed from 0", *times);
    for (int i = 0; i < *times; ++i) fmt::print("whee\n");
    session.exit_code = *times == 0 ? 3 : 0;
  });
}

struct Outcome {
  int code = 0;
  std::string out, err;
};

Outcome run(std::vector<std::string> words) {
  std::vector<AddCommand> commands(all_commands().begin(), all_commands().end());
  commands.push_back(&add_whistle_command);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  Outcome outcome;
  outcome.code = run_command_line(static_cast<int>(argv.size()), argv.data(), commands);
  outcome.out = testing::internal::GetCapturedStdout();
  outcome.err = testing::internal::GetCapturedStderr();
  return outcome;
}

TEST(ToyCommand, Runs) {
  const Outcome twice = run({"thimble", "whistle", "--times", "2"});
  EXPECT_EQ(twice.code, 0);
  EXPECT_EQ(twice.out, "whee\nwhee\n");
  EXPECT_EQ(run({"thimble", "whistle", "--times", "0"}).code, 3);
}

TEST(ToyCommand, IsExplained) {
  EXPECT_NE(run({"thimble", "help"}).out.find("Whistle, for tests"), std::string::npos);
  EXPECT_NE(run({"thimble", "help", "whistle"}).out.find("How often"), std::string::npos);
}

TEST(ToyCommand, ReportsMistakes) {
  const Outcome wrong = run({"thimble", "whistle", "--times", "-1"});
  EXPECT_EQ(wrong.code, kExitUser);
  EXPECT_NE(wrong.err.find("whistle: --times -1: allowed from 0"), std::string::npos) << wrong.err;
  const Outcome near = run({"thimble", "whistel"});
  EXPECT_EQ(near.code, kExitUser);
  EXPECT_NE(near.err.find("did you mean 'whistle'?"), std::string::npos) << near.err;
}

}  // namespace
}  // namespace thimble
