#include "launcher/launch/rank_monitor.h"

#include <spdlog/spdlog.h>
#include <sys/prctl.h>

#include <csignal>
#include <cstdlib>

namespace thimble {

RankMonitor::RankMonitor(int rank, int ranks) : rank_(rank), fault_(armed_fault()) {
  if (fault_ && rank == 0)
    spdlog::warn("THIMBLE_FAULT={}: rank {} will fail on purpose", std::getenv("THIMBLE_FAULT"),
                 fault_->rank);
  const char* directory = std::getenv(kFlightDirectoryVariable);
  if (directory == nullptr) return;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  recorder_ = std::make_unique<FlightRecorder>(flight_file(directory, rank), rank, ranks);
}

void RankMonitor::phase(const char* name) {
  if (recorder_) recorder_->set_phase(name);
  if (fault_) fault_->strike(rank_, step_, name);
}

void RankMonitor::step(std::int64_t number) {
  step_ = number;
  if (recorder_) recorder_->set_step(number);
}

OpListener RankMonitor::listener() {
  if (!recorder_) return {};
  return [recorder = recorder_.get()](const OpEvent& event) {
    if (event.ended) {
      recorder->op_ended(event.number);
    } else {
      recorder->op_started(event.number, event.label.operation, event.label.subject, event.bytes);
    }
  };
}

}  // namespace thimble
