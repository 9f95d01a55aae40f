#include <gtest/gtest.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "core/base/numeric.h"
#include "launcher/run/chrome_trace.h"
#include "launcher/run/console.h"
#include "launcher/run/log.h"
#include "launcher/run/progress.h"
#include "launcher/run/signals.h"
#include "tests/launcher/run_temp_dir.h"

namespace thimble {
namespace {

struct Captured {
  explicit Captured(Console::Traits traits)
      : console(std::make_shared<Console>(traits,
                                          [this](std::string_view part) { text.append(part); })) {}
  std::string text;
  std::shared_ptr<Console> console;
};

ProgressPoint point(std::int64_t step) {
  return {.step = step,
          .loss = 2.34567,
          .tokens_per_s = 1234,
          .sol = 0.614,
          .memory_bytes = 3 * kGiB / 2,
          .step_s = 2};
}

TEST(RunProgress, ShortCounts) {
  EXPECT_EQ(short_count(0), "0");
  EXPECT_EQ(short_count(949.6), "950");
  EXPECT_EQ(short_count(999.9), "1.00k");
  EXPECT_EQ(short_count(1234), "1.23k");
  EXPECT_EQ(short_count(12345), "12.3k");
  EXPECT_EQ(short_count(123456), "123k");
  EXPECT_EQ(short_count(999999), "1.00M");
  EXPECT_EQ(short_count(2.5e9), "2.50G");
}

TEST(RunProgress, TextOfAStep) {
  EXPECT_EQ(progress_text(point(12), 100, 12), "step 12/100  loss 2.3457  1.23k tok/s  sol 0.61  " +
                                                   format_bytes(3 * kGiB / 2) + "  left " +
                                                   format_duration(12));
  ProgressPoint last = point(100);
  last.sol.reset();
  EXPECT_EQ(progress_text(last, 100, 0),
            "step 100/100  loss 2.3457  1.23k tok/s  " + format_bytes(3 * kGiB / 2));
}

TEST(RunProgress, PlainLinesAreFirstLastAndAtMostOneIn10Seconds) {
  Captured captured({.live = false});
  Progress progress(captured.console, {.last_step = 100, .logging_steps = 4});
  for (int step = 1; step <= 100; ++step) progress.update(point(step), step);
  progress.finish();
  std::vector<std::string> shown;
  std::istringstream lines(captured.text);
  for (std::string line; std::getline(lines, line);)
    shown.push_back(line.substr(0, line.find('/')));
  EXPECT_EQ(shown,
            (std::vector<std::string>{"step 1", "step 12", "step 24", "step 36", "step 48",
                                      "step 60", "step 72", "step 84", "step 96", "step 100"}));
}

TEST(RunProgress, AnInterruptedRunStillShowsItsLastStep) {
  Captured captured({.live = false});
  Progress progress(captured.console, {.last_step = 100});
  progress.update(point(1), 0);
  progress.update(point(2), 1);
  EXPECT_EQ(captured.text.find("step 2/"), std::string::npos);
  progress.finish();
  EXPECT_NE(captured.text.find("step 2/100"), std::string::npos);
}

TEST(RunProgress, QuietShowsNothing) {
  Captured captured({.live = true});
  Progress progress(captured.console, {.last_step = 2, .quiet = true});
  progress.update(point(1), 0);
  progress.update(point(2), 1);
  progress.finish();
  EXPECT_EQ(captured.text, "");
}

TEST(RunProgress, TimeLeftFollowsTheMeanStep) {
  Captured captured({.live = false});
  Progress progress(captured.console, {.last_step = 31});
  progress.update(point(1), 0);
  EXPECT_NE(captured.text.find("left " + format_duration(60)), std::string::npos) << captured.text;
}

TEST(RunConsole, LiveLineStaysBelowLogLinesAndIsCutToTheWidth) {
  Captured captured({.live = true, .columns = 8});
  captured.console->set_live_line("0123456789");
  captured.console->print_line("a line");
  captured.console->end_live_line();
  captured.console->end_live_line();
  EXPECT_EQ(captured.text, "\r0123456\x1b[K\r\x1b[Ka line\n\r0123456\x1b[K\n");
}

TEST(RunConsole, LiveProgressIsRedrawnAtMostTenTimesASecond) {
  Captured captured({.live = true, .columns = 200});
  Progress progress(captured.console, {.last_step = 100});
  for (int step = 1; step <= 50; ++step) progress.update(point(step), step * 0.01);
  EXPECT_EQ(std::count(captured.text.begin(), captured.text.end(), '\r'), 5);
}

TEST(RunLogging, PrefixesLevelsAndFile) {
  const TempDir logs("log");
  Captured captured({.live = false});
  start_logging(captured.console, "warn");
  add_log_file(logs.path() / "rank-0.log", "warn");
  spdlog::debug("no one");
  spdlog::info("the plan");
  spdlog::warn("the disk");
  spdlog::error("the end");
  stop_logging();
  EXPECT_EQ(captured.text, "warning: the disk\nerror: the end\n");
  const std::string file = read_all(logs.path() / "rank-0.log");
  EXPECT_EQ(file.find("no one"), std::string::npos);
  EXPECT_NE(file.find("info the plan\n"), std::string::npos) << file;
  EXPECT_NE(file.find("error the end\n"), std::string::npos) << file;
}

TEST(RunLogging, ColoursOnlyWhereTheConsoleHasThem) {
  Captured captured({.live = false, .color = true});
  start_logging(captured.console, "info");
  spdlog::warn("x");
  stop_logging();
  EXPECT_EQ(captured.text, "\x1b[33mwarning:\x1b[0m x\n");
}

TEST(RunLogging, UnknownLevelNamesTheNearest) {
  Captured captured({});
  try {
    start_logging(captured.console, "wran");
    FAIL() << "no error";
  } catch (const UserError& error) {
    EXPECT_STREQ(
        error.what(),
        "log level 'wran' is unknown, did you mean 'warn'?; allowed: debug, info, warn, error");
  }
}

TEST(RunLogging, LogFileThatCannotBeOpenedIsAWarning) {
  Captured captured({});
  start_logging(captured.console, "info");
  add_log_file("/dev/null/none/rank-0.log", "info");
  EXPECT_NE(captured.text.find("there will be no log"), std::string::npos);
  stop_logging();
}

/// Runs `body` in a child process; returns its wait status.
template <typename Body>
int status_of_child(const Body& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    body();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

TEST(RunSignals, FirstSetsTheFlagSecondEndsTheProcess) {
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) {
    const int status = status_of_child([number] {
      install_stop_handlers();
      if (stop_requested()) ::_exit(1);
      ::raise(number);
      if (!stop_requested() || stop_signal() != number) ::_exit(2);
      ::raise(number);  // told twice: still one request
      ::usleep(1'100'000);
      ::raise(SIGTERM);
      ::_exit(3);
    });
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 128 + SIGTERM);
  }
}

TEST(RunSignals, TheFirstIsAnsweredAtOnce) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const int status = status_of_child([&ends] {
    ::dup2(ends[1], STDERR_FILENO);
    install_stop_handlers("stopping\n");
    ::raise(SIGINT);
    ::raise(SIGINT);
  });
  ::close(ends[1]);
  EXPECT_EQ(status, 0);
  std::string said(64, ' ');
  said.resize(static_cast<std::size_t>(std::max<ssize_t>(0, ::read(ends[0], said.data(), 64))));
  ::close(ends[0]);
  EXPECT_EQ(said, "stopping\n");
}

TEST(RunSignals, InstallingForgetsAnEarlierSignal) {
  const int status = status_of_child([] {
    install_stop_handlers();
    ::raise(SIGUSR1);
    install_stop_handlers();
    ::_exit(stop_requested() ? 1 : 0);
  });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(RunTrace, EventsOfSeveralThreadsParseBack) {
  const TempDir temp("trace");
  const auto path = temp.path() / "trace.json";
  {
    TraceWriter trace(path);
    trace.add("first \"op\"", "forward", 1'000'000, 1'002'500, 0);
    std::thread other([&trace] {
      for (int i = 0; i < 100; ++i) trace.add("copy", "io", 1'003'000, 1'002'000, 1);
    });
    for (int i = 0; i < 100; ++i) trace.add("linear", "forward", 1'003'000, 1'004'000, 0);
    other.join();
  }
  const auto events = nlohmann::json::parse(read_all(path));
  ASSERT_EQ(events.size(), 201u);
  EXPECT_EQ(events[0]["name"], "first \"op\"");
  EXPECT_EQ(events[0]["ph"], "X");
  EXPECT_EQ(events[0]["cat"], "forward");
  EXPECT_EQ(events[0]["ts"], 0.0);
  EXPECT_EQ(events[0]["dur"], 2.5);
  for (const auto& event : events) EXPECT_GE(event["dur"].get<double>(), 0.0);
}

TEST(RunTrace, EmptyTraceAndErrors) {
  const TempDir temp("trace");
  const auto path = temp.path() / "trace.json";
  TraceWriter trace(path);
  trace.close();
  trace.close();
  trace.add("late", "x", 0, 1, 0);
  EXPECT_TRUE(nlohmann::json::parse(read_all(path)).empty());
  EXPECT_THROW(TraceWriter(temp.path() / "none" / "trace.json"), UserError);
}

TEST(RunTrace, FullDiskIsReportedByClose) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  TraceWriter trace("/dev/full");
  trace.add("op", "x", 0, 1, 0);
  EXPECT_THROW(trace.close(), SystemError);
}

TEST(RunTrace, ProfileTableSortsByTime) {
  ProfileTable table;
  table.add("norm", 0, 1'000'000);
  table.add("linear", 0, 2'000'000, 4e6);
  table.add("linear", 0, 1'000'000, 2e6);
  EXPECT_EQ(table.to_text(),
            "operation     calls    total ms   share     mean us   GFLOP/s\n"
            "linear            2       3.000   75.0%      1500.0       2.0\n"
            "norm              1       1.000   25.0%      1000.0         -\n");
}

TEST(RunTrace, EmptyProfileTableIsAHeader) {
  const std::string text = ProfileTable().to_text();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
}

}  // namespace
}  // namespace thimble
