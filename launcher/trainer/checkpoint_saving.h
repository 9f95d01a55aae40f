// Saves a checkpoint every checkpoint.save_steps steps, after the last step, and after the best
// evaluation if that one is to be exported.
#pragma once

#include "launcher/trainer/step_hook.h"

namespace thimble {

class CheckpointSaving final : public StepHook {
 public:
  void begin(RunState& run) override;
  void after_step(RunState& run, const StepReport&) override;
  /// Throws SystemError if the last step could not be saved.
  void after_last_step(RunState& run) override;
  void end(RunState& run) override;
};

/// Saves the step that is done, unless it is saved. A failure that all ranks know of is a warning:
/// run.last_saved then stays what it was.
void save_step(RunState& run);

}  // namespace thimble
