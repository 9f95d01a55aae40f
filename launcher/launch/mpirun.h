// The mpirun command line of a launch, and what its hostfile promises.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace thimble {

struct LaunchOptions {
  int ranks = 0;
  std::filesystem::path
      hostfile;  // empty: this machine, or the allocation of SLURM or PBS that it is in
  int max_restarts = 3;
  double heartbeat_timeout_s =
      30;  // a rank that shows no sign of life for so long is taken for dead
  double progress_timeout_s = 900;   // ranks that do nothing new for so long are taken for stuck
  std::vector<std::string> command;  // of thimble, without the program: "train", "job.toml", ...
};

struct HostSlots {
  std::string host;
  int slots = 1;
};

/// "name [slots=N]" lines; '#' begins a comment. Throws UserError naming file and line, or a host
/// that cannot be resolved.
std::vector<HostSlots> read_hostfile(const std::filesystem::path& file);

/// Throws UserError if mpirun is not on PATH or the hosts have fewer slots than there are ranks.
std::vector<std::string> mpirun_command(const LaunchOptions& options, const std::string& program);

}  // namespace thimble
