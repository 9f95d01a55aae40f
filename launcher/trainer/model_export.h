// What a trained run leaves: the model of the best evaluation or of the last step, and the record
// that the run is finished.
#pragma once

#include "launcher/trainer/step_hook.h"

namespace thimble {

class ModelExport final : public StepHook {
 public:
  /// Nothing for a run that stops before its end.
  void end(RunState& run) override;
};

}  // namespace thimble
