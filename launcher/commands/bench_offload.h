// What the update of a step costs, in time and on disk: the part of `bench train` that watches it.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "train/assembled_engine.h"

namespace CLI {
class App;
}

namespace thimble {

/// What of the state is on disk or on a GPU's host, as the command line says it.
struct OffloadBench {
  std::string directory;  // empty: nothing
  bool weights = false, gradients = false, delayed_update = false;
  int slots = 2;
  std::string cache = "0B";
  std::int64_t commit_steps = 1;
  bool host_state = false, host_gradients = false;
  double gpu_share = 1;
};
void add_offload_options(CLI::App& bench, OffloadBench& offload);
void add_host_options(CLI::App& bench, OffloadBench& offload);
/// Throws UserError for a size that is none.
OffloadSpec offload_spec(const OffloadBench& offload);

/// A directory for state on disk that goes with its owner.
class BenchDirectory {
 public:
  /// In `parent`, the same on all ranks; none if it is empty.
  BenchDirectory(const std::string& parent, Communicator& comm);
  ~BenchDirectory();
  BenchDirectory(const BenchDirectory&) = delete;
  BenchDirectory& operator=(const BenchDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

class UpdateMeter {
 public:
  /// Takes the engine's phase hook.
  explicit UpdateMeter(AssembledEngine& assembled);
  /// From now on is counted.
  void begin();
  /// update_s and, with state elsewhere, bytes and rate, by name, all per step; what is of the
  /// update alone is left out where that runs within another phase.
  std::vector<std::pair<std::string, double>> results(std::size_t steps) const;

 private:
  DiskTraffic traffic() const;

  AssembledEngine& assembled_;
  DiskTraffic before_, began_, of_updates_;
  HostTraffic host_before_;
  std::int64_t update_ns_ = 0, began_ns_ = 0;
};

}  // namespace thimble
