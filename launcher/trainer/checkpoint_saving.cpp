#include "launcher/trainer/checkpoint_saving.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>

#include "checkpoint/checkpoint_directory.h"
#include "core/ops/op_observer.h"
#include "train/save_checkpoint.h"

namespace thimble {
namespace {

void note_saved(const RunState& run, const std::filesystem::path& path) {
  const TrainState& state = run.train;
  spdlog::info("step {}: saved {}", state.step, path.string());
  try {
    run.parts.log->checkpoint(state.step, path);
    std::set<std::int64_t> keep{state.step};
    if (state.best_step >= 0) keep.insert(state.best_step);
    prune_checkpoints(run.parts.run / "checkpoints", run.parts.job.checkpoint.save_total_limit,
                      keep);
  } catch (const std::exception& e) {
    spdlog::warn("step {}: after it was saved: {}", state.step, e.what());
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

void save_if_due(RunState& run) {
  const bool best = run.improved && run.parts.job.export_.checkpoint == job::ExportChoice::kBest;
  if (run.due(run.parts.job.checkpoint.save_steps) || run.is_last() || best) save_step(run);
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
  save_step(run);
  if (run.last_saved != run.train.step) {
    throw_system("step {} could not be saved; {}; {} continues from there", run.train.step,
                 run.saved_text(), run.parts.same_command);
  }
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
    if (run.leads()) note_saved(run, path);
  } catch (const SystemError& e) {
    // What only this rank knows of would leave the others waiting for it.
    if (run.comm().size() > 1 && dynamic_cast<const CheckpointNotSaved*>(&e) == nullptr) throw;
    if (run.leads())
      spdlog::warn("step {}: the checkpoint was not saved: {}; {}; the next save tries again",
                   run.train.step, e.what(), run.saved_text());
  }
}

}  // namespace thimble
