#include "launcher/trainer/trainer.h"

#include <algorithm>

#include "core/ops/op_observer.h"
#include "launcher/launch/rank_monitor.h"
#include "launcher/plan/job_setup.h"
#include "launcher/trainer/checkpoint_saving.h"
#include "launcher/trainer/early_stopping.h"
#include "launcher/trainer/evaluation.h"
#include "launcher/trainer/model_export.h"
#include "launcher/trainer/non_finite_steps.h"
#include "launcher/trainer/sample_prompts.h"
#include "launcher/trainer/step_records.h"
#include "launcher/trainer/stop_request.h"
#include "launcher/trainer/tracing.h"
#include "train/offload_stores.h"

namespace thimble {

Trainer::Trainer(TrainerParts parts, const TrainState& state)
    : run_{.parts = std::move(parts), .train = state},
      schedule_(make_schedule(run_.parts.job, run_.parts.total_steps)),
      batches_(run_.parts) {
  run_.parts.engine.set_last_grad_norm(state.last_grad_norm);
  run_.stop_early = is_stopped_early(run_.parts.job, state);
  if (OffloadStores* offload = run_.parts.offload) {
    // So that an interrupted run knows where the state on disk stands.
    run_.parts.engine.set_commit_hook([this, offload](const StepResult& result) {
      offload->home()->set_note(checkpoint_metadata(
          after_step(result),
          {run_.parts.model_config, run_.parts.spec.tokenizer.string(), run_.parts.resolved_job}));
    });
  }
  // The order of the list is the order of what happens at each boundary of a step.
  auto& non_finite = add<NonFiniteSteps>();
  auto& records = add<StepRecords>(run_);
  add<NonFiniteLimit>(non_finite, records);
  add<StopRequest>(records);
  add<Tracing>();
  add<Evaluation>();
  add<SamplePrompts>();
  add<CheckpointSaving>();
  add<ModelExport>();
}

// What a step adds to the state of the run.
TrainState Trainer::after_step(const StepResult& result) const {
  const TrainerParts& parts = run_.parts;
  TrainState train = run_.train;
  ++train.step;
  train.tokens_seen += parts.plan.batch.sequences * parts.spec.engine.seq_len;
  train.trained_tokens += result.trained_tokens;
  train.skipped_steps += result.skipped ? 1 : 0;
  train.last_grad_norm = parts.engine.last_grad_norm();
  return train;
}

// The engine's step and its time.
StepReport Trainer::make_step(const std::vector<Batch>& micro_batches) {
  TrainerParts& parts = run_.parts;
  TrainState& train = run_.train;
  if (parts.monitor != nullptr) parts.monitor->step(train.step + 1);
  const std::int64_t start = steady_now_ns();
  const double lr = schedule_.at(train.step + 1);
  StepResult result = parts.engine.step(micro_batches, train.step + 1, lr);
  const double seconds = static_cast<double>(steady_now_ns() - start) * 1e-9;
  run_.longest_step_s = std::max(run_.longest_step_s, seconds);
  train = after_step(result);
  return {.result = std::move(result), .lr = lr, .seconds = seconds};
}

bool Trainer::may_step() {
  for (const auto& hook : hooks_) hook->before_step(run_);
  return !run_.stopping;
}

TrainOutcome Trainer::run() {
  for (const auto& hook : hooks_) hook->begin(run_);
  run_.parts.engine.arena().begin_phase("step");
  batches_.prefetch(run_.train.step + 1);
  while (run_.train.step < run_.parts.total_steps && !run_.stop_early) {
    batches_.wait(run_);
    if (!may_step()) break;
    const std::vector<Batch> micro_batches = batches_.take();
    batches_.prefetch(run_.train.step + 2);
    const StepReport report = make_step(micro_batches);
    for (const auto& hook : hooks_) hook->after_step(run_, report);
  }
  batches_.wait(run_);  // for a step that is not to be made, whatever comes of it
  for (const auto& hook : hooks_) hook->after_last_step(run_);
  for (const auto& hook : hooks_) hook->end(run_);
  return run_.stopping ? TrainOutcome::kStopped : TrainOutcome::kFinished;
}

}  // namespace thimble
