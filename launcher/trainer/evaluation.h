// Evaluates the validation sets before the first step, every eval.eval_steps steps and after the
// last one.
#pragma once

#include "launcher/trainer/step_hook.h"

namespace thimble {

/// Whether an evaluation belongs to the end of step run.train.step.
bool evaluation_due(const RunState& run);

class Evaluation final : public StepHook {
 public:
  void begin(RunState& run) override;
  void after_step(RunState& run, const StepReport&) override;
};

}  // namespace thimble
