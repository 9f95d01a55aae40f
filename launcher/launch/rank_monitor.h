// What a rank tells those who watch it: its flight record, if a launcher asked for one, and the
// moments at which a fault may strike. Does nothing in a process that nobody launched.
#pragma once

#include <memory>
#include <optional>

#include "launcher/launch/fault.h"
#include "parallel/flight_recorder.h"
#include "parallel/mpi_world.h"

namespace thimble {

/// Variables that `launch` sets for its ranks.
inline constexpr const char* kFlightDirectoryVariable = "THIMBLE_FLIGHT_DIR";
inline constexpr const char* kRestartCountVariable = "THIMBLE_RESTART_COUNT";

class RankMonitor {
 public:
  /// Under a launcher: opens the flight record, and makes this process die with its parent.
  RankMonitor(int rank, int ranks);

  /// A phase of a step begins, or one outside of steps: "load", "save".
  void phase(const char* name);
  /// The step that is being computed, from 1.
  void step(std::int64_t number);
  /// To be told of every operation between ranks.
  OpListener listener();

 private:
  int rank_;
  std::int64_t step_ = 0;
  std::unique_ptr<FlightRecorder> recorder_;
  std::optional<Fault> fault_;
};

}  // namespace thimble
