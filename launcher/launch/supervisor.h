// Starts a job's ranks through mpirun, watches them, says which failed and why, and starts them
// again while they make progress, on the nodes that are left. Leaves no process behind, however it
// ends.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace thimble {

/// How many ranks a launch may go on with when nodes are lost; all of `most` if they are there.
struct ElasticRanks {
  int least = 0, most = 0;
};
/// "MIN:MAX". Throws UserError.
ElasticRanks parse_elastic(const std::string& text);

struct LaunchOptions {
  ElasticRanks ranks;              // both the same: exactly so many
  std::filesystem::path hostfile;  // empty: this machine, or the allocation of SLURM or PBS
  int max_restarts = 3;
  double heartbeat_timeout_s = 30;   // a rank without a sign of life for so long is dead
  double progress_timeout_s = 900;   // ranks that do nothing new for so long are stuck
  std::vector<std::string> command;  // the program and its arguments
};

/// The command line of the first start, if all nodes answer. Throws UserError as launch().
std::vector<std::string> first_command(const LaunchOptions& options);

/// The command without what says where a run begins (--fresh, --resume never, --resume-from): once
/// it has begun, a restart continues it.
std::vector<std::string> continuing_command(std::vector<std::string> command);

/// Returns the exit code of the job: 0, 75 (saved and stopped on a signal), 2 (a user's mistake,
/// never restarted), the failing rank's own, or 128 + the signal that killed it. Throws UserError
/// before anything is started: no mpirun, a hostfile that cannot be read, nodes that do not answer
/// or have too few slots. Throws SystemError if too few answer before a restart.
int launch(const LaunchOptions& options);

}  // namespace thimble
