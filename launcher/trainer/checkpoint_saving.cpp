#include "launcher/trainer/checkpoint_saving.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>

#include "checkpoint/checkpoint_directory.h"
#include "core/ops/op_observer.h"
#include "launcher/trainer/snapshots.h"
#include "parallel/collectives.h"
#include "train/save_checkpoint.h"

namespace thimble {
namespace {

void note_saved(const RunState& run, std::int64_t step, const std::filesystem::path& path) {
  spdlog::info("step {}: saved {}", step, path.string());
  try {
    run.parts.log->checkpoint(step, path);
    std::set<std::int64_t> keep{step};
    if (run.train.best_step >= 0) keep.insert(run.train.best_step);
    const job::CheckpointConfig& config = run.parts.job.checkpoint;
    prune_checkpoints(run.parts.run / "checkpoints",
                      {config.save_total_limit, config.keep_every, std::move(keep)});
  } catch (const std::exception& e) {
    spdlog::warn("step {}: after it was saved: {}", step, e.what());
  }
}

// A state on disk becomes the checkpoint, if it can; else it is copied.
std::filesystem::path save_or_lend(const TrainerParts& parts, const TrainState& state) {
  const std::filesystem::path directory = parts.run / "checkpoints";
  const CheckpointIdentity identity{parts.model_config, parts.spec.tokenizer.string(),
                                    parts.resolved_job};
  if (parts.offload != nullptr) {
    const auto lent = lend_checkpoint(parts.engine, *parts.offload, parts.files, directory,
                                      {state.step, checkpoint_metadata(state, identity)});
    if (lent) return *lent;
  }
  return save_checkpoint(parts.engine, parts.files, directory, state, identity);
}

// What is saved is what an interrupted run would go on from, too.
void commit_state(const TrainerParts& parts, std::int64_t step) {
  if (parts.offload != nullptr && parts.offload->home()->commits().ask())
    parts.engine.state().commit(step);
}

void not_saved(const RunState& run, std::int64_t step, const std::string& why) {
  if (run.leads())
    spdlog::warn("step {}: the checkpoint was not saved: {}; {}; the next save tries again", step,
                 why, run.saved_text());
}

// What the keeper saved meanwhile.
void note_outcome(RunState& run, const std::optional<SaveOutcome>& outcome) {
  if (!outcome) return;
  const std::int64_t step = outcome->moment.step;
  if (!outcome->failure.empty()) return not_saved(run, step, outcome->failure);
  run.last_saved = std::max(run.last_saved, step);
  if (run.leads()) note_saved(run, step, outcome->path);
}

// The keeper saves what is due; nobody waits for it, unless it still saves what was due before.
void take_if_due(RunState& run, bool due) {
  Snapshots& snapshots = *run.parts.snapshots;
  note_outcome(run, snapshots.ended_save(run));
  if (run.is_last()) return save_step(run);
  const bool save = due && run.last_saved != run.train.step;
  if (save) note_outcome(run, snapshots.wait_for_save(run));
  if (!save && !run.due(run.parts.job.checkpoint.memory_steps)) return;
  if (!snapshots.take(run, save) && save) save_step(run);
}

}  // namespace

bool CheckpointSaving::is_due(const RunState& run) const {
  const job::CheckpointConfig& config = run.parts.job.checkpoint;
  const bool best = run.improved && run.parts.job.export_.checkpoint == job::ExportChoice::kBest;
  const bool at_interval =
      interval_ ? run.train.step >= next_save_ : run.due(*config.save_steps.value);
  return at_interval || run.due(config.keep_every) || run.is_last() || best;
}

void CheckpointSaving::save_if_due(RunState& run) {
  const bool due = is_due(run), is_saved = run.last_saved == run.train.step;
  const std::int64_t start = steady_now_ns();
  if (run.parts.snapshots != nullptr) {
    take_if_due(run, due);
  } else if (due) {
    save_step(run);
  }
  if (!due || !interval_) return;
  if (!is_saved) interval_->note_save(static_cast<double>(steady_now_ns() - start) * 1e-9);
  choose_next(run);
}

// By the times of rank 0, so that all ranks come to the same step.
void CheckpointSaving::choose_next(RunState& run) {
  std::int64_t steps = interval_->steps();
  broadcast(run.comm(), "steps to the next save", 0, std::as_writable_bytes(std::span(&steps, 1)));
  next_save_ = run.train.step + steps;
  if (run.leads() && interval_->is_measured())
    spdlog::info("checkpoint.save_steps: {}", interval_->text());
}

void CheckpointSaving::begin(RunState& run) {
  run.last_saved = run.parts.saved_step;
  const job::CheckpointConfig& config = run.parts.job.checkpoint;
  if (config.save_steps.is_auto()) {
    interval_.emplace(config.mtbf_hours);
    next_save_ = run.train.step + interval_->steps();
  }
  if (run.parts.is_recovered) save_if_due(run);
}

void CheckpointSaving::after_step(RunState& run, const StepReport& report) {
  if (interval_) interval_->note_step(report.seconds);
  save_if_due(run);
}

void CheckpointSaving::after_last_step(RunState& run) {
  if (run.parts.snapshots != nullptr) note_outcome(run, run.parts.snapshots->wait_for_save(run));
  save_step(run);
  if (run.last_saved != run.train.step) {
    throw_system("step {} could not be saved; {}; {} continues from there", run.train.step,
                 run.saved_text(), run.parts.same_command);
  }
}

void CheckpointSaving::end(RunState& run) {
  Snapshots* snapshots = run.parts.snapshots;
  if (snapshots == nullptr) return;
  barrier(run.comm(), "the end");
  snapshots->finish();
  if (run.leads()) spdlog::info("{}", snapshots_text(*snapshots));
}

void save_step(RunState& run) {
  const TrainerParts& parts = run.parts;
  if (run.last_saved == run.train.step) return;
  parts.engine.finish_update();  // in the phase of the step
  const PhaseScope phase(parts.engine.arena(), "save");
  run.tell_phase("save");
  const std::int64_t start = steady_now_ns();
  commit_state(parts, run.train.step);
  try {
    const auto path = save_or_lend(parts, run.train);
    run.last_saved = run.train.step;
    run.longest_save_s =
        std::max(run.longest_save_s, static_cast<double>(steady_now_ns() - start) * 1e-9);
    if (run.leads()) note_saved(run, run.train.step, path);
  } catch (const SystemError& e) {
    // What only this rank knows of would leave the others waiting for it.
    if (run.comm().size() > 1 && dynamic_cast<const CheckpointNotSaved*>(&e) == nullptr) throw;
    not_saved(run, run.train.step, e.what());
  }
}

}  // namespace thimble
