// Everything one rank does for `thimble train`, from the job file to the exported model. Rank 0
// leads: it holds the run directory, decides what all must agree on, logs and exports.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "launcher/commands/job_arguments.h"
#include "parallel/communicator.h"

namespace thimble {

struct CommandSession;
class RankMonitor;

struct TrainArguments : JobArguments {
  std::string resume = "auto";
  std::optional<std::int64_t> resume_from;
  std::string resume_directory;  // where that step's checkpoint is; empty: in the run
  bool fresh = false;
  std::string init_from;
  std::string trace;
  int simulate = 0;  // ranks as threads; 0: none
};

/// One rank of a run, and what it lives in.
struct RankSetting {
  const TrainArguments& arguments;  // the same on every rank
  CommandSession& session;
  Communicator& comm;
  RankMonitor& monitor;
  int ranks_on_node = 1;      // ranks that share this machine
  bool owns_process = false;  // the rank is a process, with a log file of its own
};

/// Returns exit code 0 or 75. All ranks of the communicator call it together; an error of one must
/// be followed by comm.abort().
int train_rank(const RankSetting& rank);

}  // namespace thimble
