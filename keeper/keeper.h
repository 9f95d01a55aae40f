// The keeper: one process per node and run that owns the memory of the ranks' snapshots, so that it
// outlives them. It saves snapshots to disk in the background, when it is asked and when the ranks
// are gone, and hands them to the ranks of the next start. It ends when the run does, or some
// minutes after the last rank has gone without a word. Knows no model and no job.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace thimble {

struct KeeperOptions {
  std::filesystem::path run;          // the run's directory
  std::string node;                   // its name among the nodes of the run
  double minutes = 10;                // that it waits for ranks to come
  std::int64_t write_rate = 0;        // bytes per second of a save; 0: as fast as it goes
  std::string address = "127.0.0.1";  // at which keepers of other nodes reach it
  bool is_simulated = false;          // several nodes of one machine, for tests
};

/// The name under which processes of this machine reach the keeper.
std::string keeper_name(const std::filesystem::path& run, const std::string& node);

/// Keeps until it has to end; `ready` is called once ranks can reach it. False: another keeper has
/// the name. Throws SystemError.
bool run_keeper(const KeeperOptions& options, const std::function<void()>& ready);

}  // namespace thimble
