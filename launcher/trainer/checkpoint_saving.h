// Saves a checkpoint every checkpoint.save_steps steps, at those that checkpoint.keep_every keeps,
// after the last step, and after the best evaluation if that one is to be exported.
#pragma once

#include <optional>

#include "launcher/trainer/save_interval.h"
#include "launcher/trainer/step_hook.h"

namespace thimble {

class CheckpointSaving final : public StepHook {
 public:
  void begin(RunState& run) override;
  void after_step(RunState& run, const StepReport& report) override;
  /// Throws SystemError if the last step could not be saved.
  void after_last_step(RunState& run) override;
  void end(RunState& run) override;

 private:
  bool is_due(const RunState& run) const;
  void save_if_due(RunState& run);
  void choose_next(RunState& run);

  // With save_steps = "auto": what it goes by, and the step that it has come to.
  std::optional<SaveInterval> interval_;
  std::int64_t next_save_ = 0;
};

/// Saves the step that is done, unless it is saved. A failure that all ranks know of is a warning:
/// run.last_saved then stays what it was.
void save_step(RunState& run);

}  // namespace thimble
