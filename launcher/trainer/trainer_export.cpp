// What a trained run leaves: the model of the best evaluation or of the last step, and the record
// that it is finished.
#include <spdlog/spdlog.h>

#include <optional>

#include "checkpoint/checkpoint_source.h"
#include "launcher/launch/rank_monitor.h"
#include "launcher/trainer/finished_run.h"
#include "launcher/trainer/trainer.h"
#include "models/hf_export.h"
#include "models/model_files.h"
#include "parallel/collectives.h"

namespace thimble {
namespace {

// Whether rank 0 could do something; if not, `reason` has why, there.
template <typename Work>
bool on_leader(Communicator& comm, const char* what, Work&& work, std::string& reason) {
  std::int64_t done = 1;
  if (comm.rank() == 0) {
    try {
      work();
    } catch (const std::exception& e) {
      reason = e.what();
      done = 0;
    }
  }
  broadcast(comm, what, 0, std::as_writable_bytes(std::span(&done, 1)));
  return done == 1;
}

}  // namespace

// The step whose weights are to be exported, which are then in the engine: those of another step
// than the last come from its checkpoint. Where that is gone, or damaged, the last are better than
// none.
std::int64_t Trainer::load_step_to_export() {
  const std::int64_t step = exported_step(parts_.job, state_);
  if (step == state_.step) return step;
  std::optional<CheckpointReader> best;
  std::string reason;
  const bool found = on_leader(
      comm(), "the best checkpoint",
      [&] { best.emplace(open_checkpoint_of(step, CheckpointCheck::kEveryByte)); }, reason);
  if (!found) {
    if (leads()) {
      spdlog::warn(
          "the best evaluation was at step {}, whose checkpoint cannot be read: {}; the last "
          "step is exported",
          step, reason);
    }
    return state_.step;
  }
  if (!best) best.emplace(open_checkpoint_of(step, CheckpointCheck::kManifest));
  CheckpointSource source(*best, parts_.engine.arena().pinned());
  parts_.engine.load(source);
  return step;
}

CheckpointReader Trainer::open_checkpoint_of(std::int64_t step, CheckpointCheck check) const {
  return CheckpointReader::open(parts_.run / "checkpoints" / fmt::format("ckpt-{}", step),
                                {parts_.files, {}}, check);
}

void Trainer::export_model() {
  const PhaseScope phase(parts_.engine.arena(), "export");
  if (parts_.monitor != nullptr) parts_.monitor->phase("export");
  const std::int64_t step = load_step_to_export();
  const HfExport options{
      .directory = parts_.run / "model",
      .dtype = parts_.engine.options().dtype,
      .max_shard_bytes = parts_.job.export_.max_shard_size.bytes,
      .source_config = parts_.setup.source_config,
      .files_to_copy = exported_files(parts_.setup.model_dir, parts_.setup.tokenizer),
      .tokenizer_is_bytes = parts_.setup.tokenizer == "byte",
      .writes = leads()};
  const bool own = leads() && is_own_export(parts_.run);
  const auto aside = export_hf(parts_.engine.arena(), parts_.model, parts_.engine.store(), options);
  if (!leads()) return;
  record_finished(parts_.run, {.step = state_.step,
                               .reason = stop_early_ ? "stopped early" : "finished",
                               .exported_step = step,
                               .wanted_step = exported_step(parts_.job, state_)});
  if (aside && own) remove_tree(*aside);
  if (aside && !own)
    spdlog::warn("the earlier {} is now {}", options.directory.string(), aside->string());
  parts_.log->exported(state_.step, step, options.directory);
  spdlog::info("exported {}: the weights of step {}{}", options.directory.string(), step,
               step == state_.best_step
                   ? fmt::format(", the best evaluation (loss {:.4f})", state_.best_eval_loss)
                   : std::string());
}

}  // namespace thimble
