// Records every step in the run's metrics and shows it in the progress line.
#pragma once

#include <optional>

#include "launcher/run/progress.h"
#include "launcher/trainer/step_hook.h"
#include "launcher/trainer/step_means.h"
#include "offload/slot_disk.h"

namespace thimble {

class StepRecords final : public StepHook {
 public:
  explicit StepRecords(const RunState& run);
  void after_step(RunState& run, const StepReport& report) override;
  void after_last_step(RunState& run) override;
  /// Writes what no record has told yet.
  void flush(RunState& run);

 private:
  std::optional<double> roofline_fraction(const RunState& run) const;
  StepMetrics metrics_of(const RunState& run, const StepReport& report) const;

  Progress progress_;
  StepMeans means_;  // since the last record
  std::optional<StepMetrics> unlogged_;
  DiskTraffic disk_logged_;  // what records have told of the disk
};

}  // namespace thimble
