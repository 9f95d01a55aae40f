// What the trainer records of its steps.
#include <algorithm>

#include "launcher/run/machine.h"
#include "launcher/trainer/trainer.h"

namespace thimble {

void Trainer::log_step(const StepResult& r, double lr, double seconds) {
  const BatchPlan& plan = parts_.plan.batch;
  const double positions = static_cast<double>(plan.sequences * parts_.setup.engine.seq_len);
  means_.add(r.loss, seconds);
  const double rate = positions / means_.seconds();
  std::optional<double> sol;
  if (parts_.light_seconds_per_micro_batch > 0) {
    sol = parts_.light_seconds_per_micro_batch * static_cast<double>(plan.accumulation_steps) /
          means_.seconds();
  }
  const ResidentMemory memory = resident_memory();
  const double flops = rate * parts_.setup.model.train_flops_per_token(parts_.setup.engine.seq_len);
  const int ranks = parts_.engine.comm().size();
  const Sampler& sampler = parts_.data.sampler();
  // The sequences of the last step that are beyond the job's end are not trained.
  const std::int64_t sequences =
      std::min(state_.step * plan.sequences,
               last_sequence(parts_.job, sampler, parts_.total_steps * plan.sequences));
  unlogged_ = {
      .step = state_.step,
      .steps = means_.steps(),
      .loss = means_.loss(),
      .grad_norm = r.grad_norm,
      .lr = lr,
      .tokens_seen = state_.tokens_seen,
      .trained_tokens = state_.trained_tokens,
      .epoch = sampler.epochs_after(sequences),
      .step_ms = means_.seconds() * 1e3,
      .tokens_per_s = rate,
      .model_tflops = flops / 1e12,
      .mfu = parts_.peak_flops ? std::optional(flops / (*parts_.peak_flops * ranks)) : std::nullopt,
      .sol = sol,
      .peak_bytes = memory.peak_bytes,
      .peak_bytes_by_tag = peak_by_tag(memory_report(parts_.engine.arena()))};
  if (due(parts_.job.logging.logging_steps) || state_.step == parts_.total_steps) log_rest();
  progress_.update({.step = state_.step,
                    .loss = r.loss,
                    .tokens_per_s = positions / seconds,
                    .sol = sol,
                    .memory_bytes = memory.now_bytes,
                    .step_s = seconds},
                   static_cast<double>(steady_now_ns()) * 1e-9);
}

// What no record has told yet; also when a run ends between two records.
void Trainer::log_rest() {
  if (!unlogged_) return;
  parts_.log->step(*unlogged_);
  unlogged_.reset();
  means_ = {};
}

}  // namespace thimble
