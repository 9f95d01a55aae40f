// The best evaluation so far, and whether the evaluations since then are enough to stop.
#pragma once

#include "launcher/trainer/step_hook.h"

namespace thimble {

/// Remembers the loss of an evaluation in run.train, and sets run.improved and run.stop_early. The
/// evaluation before the first step says nothing.
void note_evaluation(RunState& run, double loss);

/// Whether early stopping has ended the job that this state is of.
bool is_stopped_early(const job::JobConfig& job, const TrainState& state);

/// The step whose weights the job exports: that of the best evaluation, or the last.
std::int64_t exported_step(const job::JobConfig& job, const TrainState& state);

}  // namespace thimble
