#include "launcher/trainer/step_batches.h"

#include "launcher/trainer/job_length.h"

namespace thimble {

std::vector<Batch> StepBatches::batches_of(std::int64_t step) const {
  const BatchPlan& plan = parts_.plan.batch;
  const Sampler& sampler = parts_.data.sampler();
  const std::int64_t end = last_sequence(parts_.job, sampler, parts_.total_steps * plan.sequences);
  const int rank = parts_.engine.comm().rank();
  std::vector<Batch> batches;
  for (std::int64_t index = 0; index < plan.accumulation_steps; ++index) {
    std::vector<std::int64_t> ids;
    for (std::int64_t i = 0; i < plan.micro_batch; ++i) {
      const std::int64_t in_step = plan.place(index, rank, i);
      const std::int64_t global = (step - 1) * plan.sequences + in_step;
      ids.push_back(in_step < plan.sequences && global < end ? sampler.sequence_at(global)
                                                             : kZeroSequence);
    }
    batches.push_back(parts_.data.train().get_sequences(ids));
    parts_.engine.model().prepare(batches.back());
  }
  return batches;
}

void StepBatches::prefetch(std::int64_t step) {
  if (step > parts_.total_steps) return;
  ready_ = loader_.run([this, step] { next_ = batches_of(step); });
}

void StepBatches::wait(RunState& run) {
  try {
    ready_.wait();
  } catch (const std::exception& e) {
    run.data_error = e.what();
  }
}

}  // namespace thimble
