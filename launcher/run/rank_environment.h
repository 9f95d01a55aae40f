// Which rank of how many this process is, read from what its launcher left in the environment.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace thimble {

struct RankEnvironment {
  int rank = 0, ranks = 1;              // over all nodes
  int local_rank = 0, local_ranks = 1;  // on this node
  std::string source;                   // "Open MPI", "PMI"
};

/// The value of a variable, or none.
using Variables = std::function<std::optional<std::string>(const char*)>;
Variables process_variables();

/// None for a process that nobody launched as a rank. Throws UserError, naming both sources, if
/// they disagree on the number of ranks, or if SLURM started several processes that no MPI
/// connects.
std::optional<RankEnvironment> rank_environment(const Variables& variables);

}  // namespace thimble
