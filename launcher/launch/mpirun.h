// The mpirun command line of a launch.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace thimble {

/// Environment of the ranks that `launch` starts, beside the flight records' (rank_monitor.h).
inline constexpr const char* kRestartCountVariable = "THIMBLE_RESTART_COUNT";

/// words: what mpirun runs. hostfile: empty for this machine, or the allocation of SLURM or PBS
/// that it is in. Throws UserError if mpirun is not on PATH.
std::vector<std::string> mpirun_command(int ranks, const std::filesystem::path& hostfile,
                                        const std::vector<std::string>& words);

}  // namespace thimble
