#include "launcher/trainer/model_export.h"

#include <spdlog/spdlog.h>

#include <optional>

#include "checkpoint/checkpoint_source.h"
#include "compress/kvc_file.h"
#include "launcher/plan/adapter_setup.h"
#include "launcher/trainer/early_stopping.h"
#include "launcher/trainer/exported_template.h"
#include "launcher/trainer/finished_run.h"
#include "models/adapter_export.h"
#include "models/model_files.h"
#include "parallel/collectives.h"
#include "train/compressor_parts.h"

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

CheckpointReader open_checkpoint_of(const RunState& run, std::int64_t step, CheckpointCheck check) {
  return CheckpointReader::open(run.parts.run / "checkpoints" / fmt::format("ckpt-{}", step),
                                {run.parts.files, {}}, check);
}

// The step whose weights are to be exported, which are then in the engine: those of another step
// than the last come from its checkpoint. Where that is gone, or damaged, the last are better than
// none.
std::int64_t load_step_to_export(const RunState& run) {
  const std::int64_t step = exported_step(run.parts.job, run.train);
  if (step == run.train.step) return step;
  std::optional<CheckpointReader> best;
  std::string reason;
  const bool found = on_leader(
      run.comm(), "the best checkpoint",
      [&] { best.emplace(open_checkpoint_of(run, step, CheckpointCheck::kEveryByte)); }, reason);
  if (!found) {
    if (run.leads()) {
      spdlog::warn(
          "the best evaluation was at step {}, whose checkpoint cannot be read: {}; the last "
          "step is exported",
          step, reason);
    }
    return run.train.step;
  }
  if (!best) best.emplace(open_checkpoint_of(run, step, CheckpointCheck::kManifest));
  CheckpointSource source(*best, run.parts.engine.arena().pinned());
  run.parts.engine.load(source, LoadedWeights::kSaved);
  return step;
}

const char* reason_of_end(const RunState& run) {
  return run.stop_early ? "stopped early" : "finished";
}

// How the run's compressor came about, and of which model it is.
KvcConfig kvc_config_of(const RunState& run) {
  const TrainerParts& parts = run.parts;
  std::vector<std::string> files;
  for (const SourceSpec& source : parts.spec.data.train) {
    for (const std::string& path : source.paths)
      files.push_back(std::filesystem::path(path).filename().string());
  }
  return {.base = kvc_base(parts.spec.model, parts.spec.model_dir),
          .compressor = *parts.spec.compressor,
          .activation = parts.compressor->shape().activation,
          .training = {.data = fmt::format("{}", fmt::join(files, ", ")),
                       .steps = run.train.step,
                       .lr = parts.spec.optimizer.main.lr,
                       .seed = parts.spec.engine.seed}};
}

std::optional<std::filesystem::path> write_export(const RunState& run, const HfExport& options) {
  const TrainerParts& parts = run.parts;
  if (parts.compressor == nullptr)
    return export_trained(parts.engine.arena(), parts.model, parts.engine.store(), options);
  return export_compressor(parts.engine.arena(), *parts.compressor, parts.engine.store(),
                           {.directory = options.directory,
                            .dtype = options.dtype,
                            .config = options.writes ? kvc_config_of(run) : KvcConfig{},
                            .writes = options.writes});
}

void export_model(const RunState& run) {
  const TrainerParts& parts = run.parts;
  parts.engine.finish_update();  // in the phase of the step
  const PhaseScope phase(parts.engine.arena(), "export");
  run.tell_phase("export");
  const std::int64_t step = load_step_to_export(run);
  const bool is_adapter = !parts.model.adapters().empty(), is_model = parts.compressor == nullptr;
  std::vector<std::filesystem::path> files;
  if (!is_adapter && is_model) {
    files = exported_files(parts.spec.model_dir, parts.spec.tokenizer);
  } else if (is_adapter && parts.spec.tokenizer != "byte") {
    files = tokenizer_files(parts.spec.tokenizer);
  }
  if (run.leads() && is_model) add_chat_files(parts, files);
  const HfExport options{.directory = parts.run / "model",
                         .dtype = parts.engine.options().dtype,
                         .max_shard_bytes = parts.job.export_.max_shard_size.bytes,
                         .source_config = parts.spec.source_config,
                         .files_to_copy = std::move(files),
                         .tokenizer_is_bytes = parts.spec.tokenizer == "byte",
                         .base_model = base_model_name(parts.spec.model_dir),
                         .writes = run.leads()};
  const bool own = run.leads() && is_own_export(parts.run);
  const auto aside = write_export(run, options);
  if (!run.leads()) return;
  record_finished(parts.run, {.step = run.train.step,
                              .reason = reason_of_end(run),
                              .exported_step = step,
                              .wanted_step = exported_step(parts.job, run.train)});
  if (aside && own) remove_tree(*aside);
  if (aside && !own)
    spdlog::warn("the earlier {} is now {}", options.directory.string(), aside->string());
  parts.log->exported(run.train.step, step, options.directory);
  spdlog::info("exported {}: the weights of step {}{}", options.directory.string(), step,
               step == run.train.best_step
                   ? fmt::format(", the best evaluation (loss {:.4f})", run.train.best_eval_loss)
                   : std::string());
}

}  // namespace

void ModelExport::end(RunState& run) {
  if (run.stopping) return;
  const TrainState& state = run.train;
  if (run.stop_early && run.leads()) {
    spdlog::info(
        "stopped early at step {}: {} evaluations in a row were not better than that of step {} "
        "(loss {:.4f})",
        state.step, state.evals_without_gain, state.best_step, state.best_eval_loss);
  }
  export_model(run);
  if (run.leads()) run.parts.log->end(state.step, reason_of_end(run));
  barrier(run.comm(), "the end of the run");
}

}  // namespace thimble
