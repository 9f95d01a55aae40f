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
    prune_checkpoints(run.parts.run / "checkpoints", run.parts.job.checkpoint.save_total_limit,
                      keep);
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

bool is_due(const RunState& run) {
  const bool best = run.improved && run.parts.job.export_.checkpoint == job::ExportChoice::kBest;
  return run.due(run.parts.job.checkpoint.save_steps) || run.is_last() || best;
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
void take_if_due(RunState& run) {
  Snapshots& snapshots = *run.parts.snapshots;
  note_outcome(run, snapshots.ended_save(run));
  if (run.is_last()) return save_step(run);
  const bool save = is_due(run) && run.last_saved != run.train.step;
  if (save) note_outcome(run, snapshots.wait_for_save(run));
  if (!save && !run.due(run.parts.job.checkpoint.memory_steps)) return;
  if (!snapshots.take(run, save) && save) save_step(run);
}

void save_if_due(RunState& run) {
  if (run.parts.snapshots != nullptr) {
    take_if_due(run);
  } else if (is_due(run)) {
    save_step(run);
  }
}

}  // namespace

void CheckpointSaving::begin(RunState& run) {
  run.last_saved = run.parts.saved_step;
  if (run.parts.is_recovered) save_if_due(run);
}

void CheckpointSaving::after_step(RunState& run, const StepReport&) {
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
  if (run.leads()) spdlog::info("{}", snapshots_text(*snapshots, run.longest_step_s));
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
