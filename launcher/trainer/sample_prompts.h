// Continues the job's prompts (eval.sample_prompts) after every evaluation, to look at: whatever is
// wrong with one, training goes on.
#pragma once

#include "launcher/trainer/step_hook.h"

namespace thimble {

class SamplePrompts final : public StepHook {
 public:
  void begin(RunState& run) override;
  void after_step(RunState& run, const StepReport&) override;
};

}  // namespace thimble
