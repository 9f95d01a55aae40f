#include "launcher/trainer/non_finite_steps.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "core/base/text.h"

namespace thimble {

void NonFiniteSteps::after_step(RunState& run, const StepReport& report) {
  const StepResult& r = report.result;
  consecutive_ = r.skipped || r.skipped_tensors > 0 ? consecutive_ + 1 : 0;
  if (r.skipped_tensors > 0 && run.leads()) {
    spdlog::warn(
        "step {}: the gradients of {} tensors are not finite, first {}; these were not "
        "updated",
        run.train.step, r.skipped_tensors, r.first_bad);
  }
  if (r.skipped && run.leads())
    spdlog::warn("step {}: {} is not finite; nothing was updated", run.train.step, r.first_bad);
}

void NonFiniteLimit::after_step(RunState& run, const StepReport& report) {
  if (steps_.consecutive() < run.parts.job.training.max_skipped_steps) return;
  records_.flush(run);
  const BatchPlan& plan = run.parts.plan.batch;
  const std::int64_t first = (run.train.step - 1) * plan.sequences;
  std::vector<std::string> sequences;
  for (std::int64_t i = 0; i < std::min<std::int64_t>(plan.sequences, 8); ++i)
    sequences.push_back(std::to_string(run.parts.data.sampler().sequence_at(first + i)));
  throw_system(
      "{} consecutive steps were not finite; first bad tensor: {}; sequences of the last step: "
      "{}{}; {}",
      steps_.consecutive(), report.result.first_bad, join(sequences),
      plan.sequences > 8 ? ", ..." : "", run.saved_text());
}

}  // namespace thimble
