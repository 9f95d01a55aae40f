#include "launcher/trainer/stop_request.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <ctime>

#include "launcher/run/signals.h"
#include "launcher/trainer/checkpoint_saving.h"
#include "parallel/collectives.h"

namespace thimble {

void StopRequest::begin(RunState& run) {
  // A variable of an allocation that is over says nothing about this one.
  if (run.parts.end_s && *run.parts.end_s >= std::time(nullptr)) end_s_ = run.parts.end_s;
}

// By a signal, or because there is just time enough left to save.
bool StopRequest::must_stop(const RunState& run) {
  constexpr double kMargin_s = 60;  // for what comes after the save, and for clocks that differ
  if (stop_requested()) why_ = stop_signal_name();
  if (end_s_) {
    const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
    const double left = static_cast<double>(*end_s_) - now.count();
    if (left < kMargin_s + run.longest_step_s + 2 * run.longest_save_s)
      why_ = "the end of the allocation";
  }
  return !why_.empty();
}

void StopRequest::before_step(RunState& run) {
  constexpr std::byte kStop{1}, kNoData{2};
  const std::byte wanted = !run.data_error.empty() ? kNoData : must_stop(run) ? kStop : std::byte{};
  const auto all = all_gather_control(run.comm(), "stop", std::span(&wanted, 1));
  const auto any = [&all](std::byte which) {
    return std::find(all.begin(), all.end(), which) != all.end();
  };
  if (any(kNoData)) end_without_data(run);
  run.stopping = any(kStop);
}

// What has been trained is worth more than the data that failed.
void StopRequest::end_without_data(RunState& run) {
  const std::string reason = first_reason(run.comm(), "data", run.data_error);
  records_.flush(run);
  save_step(run);
  throw_system("after step {}: {}; {}", run.train.step, reason,
               run.last_saved == run.train.step
                   ? "what was trained is saved"
                   : "what was trained since the last checkpoint is lost");
}

void StopRequest::end(RunState& run) {
  if (!run.stopping || !run.leads()) return;
  const std::string why = why_.empty() ? "a signal to another rank" : why_;
  run.parts.log->end(run.train.step, "stopped by " + why);
  spdlog::info("stopped by {} after step {}; {} continues", why, run.train.step,
               run.parts.same_command);
}

}  // namespace thimble
