#include "launcher/launch/mpirun.h"

#include <set>

#include "core/base/error.h"
#include "launcher/launch/rank_monitor.h"
#include "launcher/run/allocation.h"
#include "launcher/run/machine.h"
#include "launcher/run/run_dir.h"

namespace thimble {

std::vector<std::string> mpirun_command(int ranks, const std::filesystem::path& hostfile,
                                        const std::vector<std::string>& words) {
  const std::filesystem::path mpirun = find_program("mpirun");
  if (mpirun.empty()) {
    throw_user("mpirun is not on PATH; several processes need it: install openmpi-bin");
  }
  // Ranks have threads of their own; by default mpirun would bind each rank to one core.
  std::vector<std::string> all{mpirun.string(), "--bind-to", "none", "-np", std::to_string(ranks)};
  if (!hostfile.empty()) {
    all.insert(all.end(), {"--hostfile", hostfile.string()});
  } else if (!allocation(process_variables())) {
    all.push_back("--oversubscribe");
  }
  // Variables that are set here must be set on other nodes too; mpirun forwards none by itself.
  std::set<std::string> names{kFlightDirectoryVariable, kFlightHostVariable, kRestartCountVariable};
  for (const auto& [name, value] : thimble_environment()) names.insert(name);
  names.erase("THIMBLE_NODE");  // each node has its own
  for (const std::string& name : names) all.insert(all.end(), {"-x", name});
  all.insert(all.end(), words.begin(), words.end());
  return all;
}

}  // namespace thimble
