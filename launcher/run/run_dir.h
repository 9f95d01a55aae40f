// The directory of one run: <output_dir>/<name>/{checkpoints,logs}, held by one process at a time,
// with run.json saying what was started when, where and with what. It decides nothing about
// resuming.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/io/file.h"

namespace thimble {

struct Machine;

/// One start of a run, as recorded in run.json.
struct RunStart {
  std::vector<std::string> command_line{};
  std::string version{};
  std::optional<std::int64_t> resumed_step{};                  ///< none for a run from scratch
  std::vector<std::pair<std::string, std::string>> content{};  ///< what it trains on, and its hash
};

/// Holds a run's directory, which must be there, as a training run does. Throws UserError naming
/// the process that holds it.
LockFile lock_run(const std::filesystem::path& run);

class RunDir {
 public:
  struct Options {
    std::filesystem::path output_dir;
    std::string name;    ///< one plain path component
    bool fresh = false;  ///< move what an earlier run left to <name>.old-<N> first
  };

  /// Creates the directory where needed and locks it for this process until destruction.
  /// Throws UserError if the name is no plain file name, the directory cannot be made, or a process
  /// holds it.
  static RunDir open(const Options& options);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  std::filesystem::path logs() const { return path_ / "logs"; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path resolved_job() const { return path_ / "job.resolved.toml"; }

  /// Where `fresh` moved the earlier run, if there was one.
  const std::optional<std::filesystem::path>& moved_to() const { return moved_to_; }

  /// Appends one entry to run.json: the start, time, process, machine and the THIMBLE_*
  /// environment. A run.json that cannot be read is moved aside with a warning.
  void record_start(const RunStart& start, const Machine& machine) const;

  /// RunStart::content of the last start in run.json; empty if there is none.
  std::map<std::string, std::string> recorded_content() const;

 private:
  RunDir(std::filesystem::path path, LockFile lock);

  std::filesystem::path path_;
  LockFile lock_;
  std::optional<std::filesystem::path> moved_to_;
};

/// The variables of the environment whose names start with THIMBLE_, sorted.
std::vector<std::pair<std::string, std::string>> thimble_environment();

}  // namespace thimble
