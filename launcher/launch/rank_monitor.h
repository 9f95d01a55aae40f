// What a rank reports to those who watch it: its flight record, which lies where its launcher wants
// it or in the run's logs, and the moments at which a fault on demand may strike.
#pragma once

#include <atomic>
#include <filesystem>
#include <memory>
#include <optional>

#include "launcher/launch/fault.h"
#include "parallel/flight_recorder.h"
#include "parallel/mpi_world.h"

namespace thimble {

/// Variables that `launch` sets for its ranks.
inline constexpr const char* kFlightDirectoryVariable = "THIMBLE_FLIGHT_DIR";
inline constexpr const char* kFlightHostVariable = "THIMBLE_FLIGHT_HOST";  // of the launcher

class RankMonitor {
 public:
  /// Under a launcher: opens the flight record, and makes this process die with its parent.
  RankMonitor(int rank, int ranks);
  /// Otherwise: opens it here.
  void record_in(const std::filesystem::path& logs);

  /// A phase of a step begins, or one outside of steps: "load", "save".
  void phase(const char* name);
  /// The step that is being computed, from 1.
  void step(std::int64_t number);
  /// The observer to be told of every operation between ranks.
  OpListener listener();

 private:
  void open(const std::filesystem::path& directory, bool read_elsewhere);

  int rank_, ranks_;
  std::atomic<std::int64_t> step_ = 0;
  std::unique_ptr<FlightRecorder> recorder_;
  std::atomic<FlightRecorder*> listening_ = nullptr;  // recorder_, for the threads of operations
  std::optional<Fault> fault_;
};

}  // namespace thimble
