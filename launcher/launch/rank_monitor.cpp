#include "launcher/launch/rank_monitor.h"

#include <spdlog/spdlog.h>
#include <sys/prctl.h>

#include <csignal>
#include <cstdlib>

#include "launcher/run/machine.h"

namespace thimble {

RankMonitor::RankMonitor(int rank, int ranks) : rank_(rank), ranks_(ranks), fault_(armed_fault()) {
  if (fault_ && rank == 0)
    spdlog::warn("THIMBLE_FAULT={}: rank {} will fail on purpose", std::getenv("THIMBLE_FAULT"),
                 fault_->rank);
  const char* directory = std::getenv(kFlightDirectoryVariable);
  if (directory == nullptr) return;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const char* reader = std::getenv(kFlightHostVariable);
  open(directory, reader != nullptr && host_name() != reader);
}

void RankMonitor::record_in(const std::filesystem::path& logs) {
  if (recorder_) return;
  try {
    open(logs, false);
  } catch (const std::exception& e) {  // for people to look at
    spdlog::warn("rank {} keeps no flight record: {}", rank_, e.what());
  }
}

void RankMonitor::open(const std::filesystem::path& directory, bool read_elsewhere) {
  recorder_ = std::make_unique<FlightRecorder>(
      flight_file(directory, rank_),
      FlightRecorder::Owner{rank_, ranks_, host_name(), read_elsewhere});
  listening_ = recorder_.get();
}

void RankMonitor::phase(const char* name) {
  if (recorder_) recorder_->set_phase(name);
  if (fault_) fault_->at_phase(rank_, step_, name);
}

void RankMonitor::step(std::int64_t number) {
  step_ = number;
  if (recorder_) recorder_->set_step(number);
}

OpListener RankMonitor::listener() {
  return [this](const OpEvent& event) {
    if (fault_ && !event.ended) fault_->at_operation(rank_, step_, event);
    if (FlightRecorder* recorder = listening_) recorder->op_event(event);
  };
}

}  // namespace thimble
