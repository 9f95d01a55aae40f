// Where the trainer's sequences come from, and what happens if they do not.
#include <algorithm>

#include "core/base/error.h"
#include "launcher/trainer/trainer.h"
#include "parallel/collectives.h"

namespace thimble {

std::vector<Batch> Trainer::batches_of(std::int64_t step) const {
  const BatchPlan& plan = parts_.plan.batch;
  const Sampler& sampler = parts_.data.sampler();
  const std::int64_t end = last_sequence(parts_.job, sampler, parts_.total_steps * plan.sequences);
  std::vector<Batch> batches;
  for (std::int64_t index = 0; index < plan.accumulation_steps; ++index) {
    std::vector<std::int64_t> ids;
    for (std::int64_t i = 0; i < plan.micro_batch; ++i) {
      const std::int64_t in_step = plan.place(index, comm().rank(), i);
      const std::int64_t global = (step - 1) * plan.sequences + in_step;
      ids.push_back(in_step < plan.sequences && global < end ? sampler.sequence_at(global)
                                                             : kZeroSequence);
    }
    batches.push_back(parts_.data.train().get_sequences(ids));
  }
  return batches;
}

// Sequences for an evaluation; none if they cannot be read, which ends the run once it is saved.
Batch Trainer::sequences_of(const Dataset& data, std::vector<std::int64_t> ids) {
  if (data_error_.empty()) {
    try {
      return data.get_sequences(ids);
    } catch (const std::exception& e) {
      data_error_ = e.what();
    }
  }
  std::fill(ids.begin(), ids.end(), kZeroSequence);
  return data.get_sequences(ids);
}

// Begins to read the sequences of a step, if there is one.
void Trainer::prefetch(std::int64_t step) {
  if (step > parts_.total_steps) return;
  ready_ = loader_.run([this, step] { next_ = batches_of(step); });
}

void Trainer::wait_for_data() {
  try {
    ready_.wait();
  } catch (const std::exception& e) {
    data_error_ = e.what();
  }
}

// What has been trained is worth more than the data that failed.
void Trainer::end_without_data() {
  const std::string reason = first_reason(comm(), "data", data_error_);
  log_rest();
  save();
  throw_system("after step {}: {}; {}", state_.step, reason,
               last_saved_ == state_.step ? "what was trained is saved"
                                          : "what was trained since the last checkpoint is lost");
}

}  // namespace thimble
