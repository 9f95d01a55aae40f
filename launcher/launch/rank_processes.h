// mpirun with its ranks, as one thing that runs, can be asked to stop, and can be ended.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "parallel/flight_recorder.h"

namespace thimble {

class RankProcesses {
 public:
  /// Starts `words` (mpirun and what it runs). Flight records appear in `flights`. restarts: starts
  /// before this one.
  RankProcesses(const std::vector<std::string>& words, const std::filesystem::path& flights,
                int restarts);
  /// Ends everything that still runs.
  ~RankProcesses();
  RankProcesses(const RankProcesses&) = delete;
  RankProcesses& operator=(const RankProcesses&) = delete;

  /// The exit code once mpirun is gone; 128 + signal. What the ranks write to standard error passes
  /// through meanwhile; mpirun's own notices do not.
  std::optional<int> poll();
  /// Asks the ranks to save and stop: mpirun forwards SIGUSR1, but kills the ranks on SIGTERM.
  void ask_to_stop() const;
  /// Ends mpirun and the ranks; those of other nodes end with their daemon.
  void end();
  /// The flight records of all ranks that have begun, by rank.
  std::vector<FlightRecord> records() const;
  /// The rank that mpirun saw fail first.
  std::optional<int> culprit() const { return culprit_; }

 private:
  void pass_errors();
  void pass_line(const std::string& line);

  std::filesystem::path flights_;
  pid_t child_ = -1;
  int errors_ = -1;
  bool ended_ = false, in_notice_ = false;
  std::string pending_;
  std::optional<int> culprit_;
};

}  // namespace thimble
