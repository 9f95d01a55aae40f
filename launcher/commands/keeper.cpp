// `thimble keeper`: the process that keeps a run's snapshots in memory. Runs start it; people need
// not.
#include "keeper/keeper.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>

#include "core/base/error.h"
#include "core/io/file.h"
#include "launcher/commands/command.h"
#include "launcher/run/log.h"

namespace thimble {
namespace {

// Everything that the process was started with is let go: nobody waits for its output, and no
// terminal or parent ends it.
void leave_parents() {
  ::setsid();
  const FileDescriptor nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    ::dup2(nothing.get(), stream);
}

// Runs in a process that is nobody's child; returns in this one when that can be reached.
int keep_in_background(const KeeperOptions& options) {
  ::close_range(3, ~0U, 0);  // of the rank that started it
  std::array<int, 2> pipe{};
  if (::pipe2(pipe.data(), O_CLOEXEC) != 0) throw_errno("pipe", "keeper");
  FileDescriptor reading(pipe[0]), writing(pipe[1]);
  const pid_t child = ::fork();
  if (child < 0) throw_errno("fork", "keeper");
  if (child > 0) {
    writing.reset();
    char answer = 0;
    return ::read(reading.get(), &answer, 1) == 1 ? 0 : kExitSystem;
  }
  reading.reset();
  leave_parents();
  const auto tell = [&writing] {
    const char ready = 1;
    [[maybe_unused]] const ssize_t put = ::write(writing.get(), &ready, 1);
    writing.reset();
  };
  try {
    add_log_file(options.run / "logs" / fmt::format("keeper-{}.log", options.node), "info");
    if (!run_keeper(options, tell)) tell();  // the other one is as good
  } catch (const std::exception& e) {
    spdlog::error("{}", e.what());
    ::_exit(kExitSystem);
  }
  spdlog::shutdown();
  ::_exit(0);
}

}  // namespace

void add_keeper_command(CLI::App& app, CommandSession& session) {
  auto options = std::make_shared<KeeperOptions>();
  CLI::App* keeper = app.add_subcommand(
      "keeper", "Keep a run's snapshots in memory while its ranks come and go (runs start it)");
  keeper->group("");  // not listed
  keeper->add_option("run", options->run, "The run's directory")
      ->required()
      ->check(CLI::ExistingDirectory);
  keeper->add_option("--node", options->node, "Name of this node among the run's")->required();
  keeper->add_option("--minutes", options->minutes, "How long it waits for ranks")
      ->check(CLI::Range(0.0, 1e6));
  keeper->add_option("--write-rate", options->write_rate, "Bytes per second of a save")
      ->check(CLI::NonNegativeNumber);
  keeper->add_option("--address", options->address, "Where keepers of other nodes reach it");
  keeper->callback([options, &session] {
    session.start();
    session.exit_code = keep_in_background(*options);
  });
}

}  // namespace thimble
