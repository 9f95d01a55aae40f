// Ends a run before its last step: by a signal, in time for the deadline of the batch system's
// allocation, or because a rank has no data. All ranks stop after the same step.
#pragma once

#include <optional>
#include <string>

#include "launcher/trainer/step_records.h"

namespace thimble {

class StopRequest final : public StepHook {
 public:
  explicit StopRequest(StepRecords& records) : records_(records) {}
  void begin(RunState& run) override;
  /// Sets run.stopping on every rank as soon as one must stop. Throws SystemError, after a save, if
  /// a rank has no data.
  void before_step(RunState& run) override;
  void end(RunState& run) override;

 private:
  bool must_stop(const RunState& run);
  [[noreturn]] void end_without_data(RunState& run);

  StepRecords& records_;
  std::optional<std::int64_t> end_s_;  // of the allocation, since 1970
  std::string why_;                    // this rank must stop; empty: it need not
};

}  // namespace thimble
