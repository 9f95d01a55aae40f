// `thimble launch`: starts the ranks of a job, watches them and starts them again after failures.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <filesystem>

#include "core/base/error.h"
#include "core/base/text.h"
#include "launcher/commands/command.h"
#include "launcher/launch/supervisor.h"

namespace thimble {

namespace {

struct LaunchArguments {
  LaunchOptions launch;
  int ranks = 0;
  std::string hostfile, elastic;
  bool dry_run = false;
};

void add_options(CLI::App* launch_command, const std::shared_ptr<LaunchArguments>& a) {
  CLI::Option* ranks =
      launch_command->add_option("-n,--ranks", a->ranks, "Number of ranks (processes) on all nodes")
          ->default_str("")
          ->check(CLI::Range(1, 1 << 16));
  launch_command
      ->add_option("--elastic", a->elastic,
                   "MIN:MAX ranks instead of -n: when nodes are lost, the job goes on with those "
                   "that answer")
      ->excludes(ranks);
  launch_command
      ->add_option("--hostfile", a->hostfile,
                   "Nodes, one per line: NAME slots=N (default: this machine)")
      ->check(CLI::ExistingFile);
  launch_command
      ->add_option("--max-restarts", a->launch.max_restarts,
                   "Restarts after failures, as long as steps advance")
      ->check(CLI::Range(0, 1000));
  launch_command
      ->add_option("--heartbeat-timeout", a->launch.heartbeat_timeout_s,
                   "Seconds until a silent rank counts as dead")
      ->check(CLI::Range(2.0, 1e6));
  launch_command
      ->add_option("--progress-timeout", a->launch.progress_timeout_s,
                   "Seconds without anything new until ranks count as stuck")
      ->check(CLI::Range(2.0, 1e6));
  launch_command->add_flag("--dry-run", a->dry_run, "Print the mpirun command and stop");
  launch_command
      ->add_option("command", a->launch.command,
                   "After --: the command of each rank, train JOB ...")
      ->required();
}

void run_launch(LaunchArguments& a, CommandSession& session) {
  session.start();
  a.launch.hostfile = a.hostfile;
  if (a.launch.command[0] != "train" && a.launch.command[0] != "bench") {
    const std::string& first = a.launch.command[0];
    throw_user(
        "launch -- {}: allowed train and bench{}", printable(first),
        first.ends_with(".toml")
            ? fmt::format("; did you mean: thimble launch -n 2 -- train {}", printable(first))
            : "");
  }
  if (a.ranks == 0 && a.elastic.empty()) throw_user("launch: give -n RANKS or --elastic MIN:MAX");
  a.launch.ranks = a.ranks > 0 ? ElasticRanks{a.ranks, a.ranks} : parse_elastic(a.elastic);
  a.launch.command.insert(a.launch.command.begin(),
                          std::filesystem::read_symlink("/proc/self/exe").string());
  if (a.dry_run) {
    fmt::print("{}\n", join(first_command(a.launch), " "));
  } else {
    session.exit_code = launch(a.launch);
  }
}

}  // namespace

void add_launch_command(CLI::App& app, CommandSession& session) {
  auto a = std::make_shared<LaunchArguments>();
  CLI::App* launch_command = app.add_subcommand(
      "launch", "Start a job on several ranks (by mpirun), watch them and restart them");
  add_options(launch_command, a);
  launch_command->footer(
      "Examples:\n"
      "  thimble launch -n 2 -- train job.toml\n"
      "  thimble launch -n 16 --hostfile hosts.txt -- train job.toml --set "
      "parallelism.zero_stage=3\n"
      "  thimble launch --elastic 8:16 --hostfile hosts.txt -- train job.toml\n"
      "A failed job starts again from its last checkpoint. SIGINT, SIGTERM, SIGHUP or SIGUSR1: "
      "save and exit 75.");
  launch_command->callback([a, &session] { run_launch(*a, session); });
}

}  // namespace thimble
