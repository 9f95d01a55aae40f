// Steps whose loss or gradients are not finite: a warning for each, the end of the run after
// training.max_skipped_steps of them in a row.
#pragma once

#include "launcher/trainer/step_hook.h"
#include "launcher/trainer/step_records.h"

namespace thimble {

/// Counts such steps and warns of each; before the step is recorded.
class NonFiniteSteps final : public StepHook {
 public:
  void after_step(RunState& run, const StepReport& report) override;
  std::int64_t consecutive() const { return consecutive_; }

 private:
  std::int64_t consecutive_ = 0;
};

/// Throws SystemError when there are too many; after the step is recorded.
class NonFiniteLimit final : public StepHook {
 public:
  NonFiniteLimit(const NonFiniteSteps& steps, StepRecords& records)
      : steps_(steps), records_(records) {}
  void after_step(RunState& run, const StepReport& report) override;

 private:
  const NonFiniteSteps& steps_;
  StepRecords& records_;
};

}  // namespace thimble
