#include "launcher/trainer/loaded_model.h"

#include <spdlog/spdlog.h>

#include <cmath>

#include "checkpoint/checkpoint_directory.h"
#include "core/ops/ops.h"
#include "launcher/plan/job_setup.h"
#include "launcher/run/machine.h"
#include "launcher/trainer/finished_run.h"
#include "models/hf_export.h"
#include "models/weight_sources.h"
#include "train/weight_loading.h"

namespace thimble {

DType stored_dtype(const std::filesystem::path& directory) {
  const SafetensorsModel files = SafetensorsModel::open(directory);
  for (const auto& [name, location] : files.tensors()) {
    if (location.entry->dtype == DType::kF32) return DType::kF32;
  }
  return DType::kBF16;
}

namespace {

// Of address space: what is not the largest may still lie less well.
constexpr std::int64_t kSpareBytes = 256 * kMiB;

using Note = std::function<void(const std::string&)>;

// The weights of the directory, in this arena.
void load_into(LoadedModel& loaded, std::unique_ptr<Arena> arena, const Note& note) {
  loaded.store.reset();
  loaded.arena = std::move(arena);
  loaded.store = std::make_unique<ResidentParamStore>(*loaded.arena, loaded.model->params(),
                                                      loaded.dtype, false);
  HfSource source(*loaded.arena, loaded.directory, loaded.model->params(), note);
  load_weights(*loaded.arena, *loaded.model, *loaded.store, source);
}

// A run that goes on keeps the model of its earlier end until it comes to the new one.
void warn_if_outdated(const std::filesystem::path& run) {
  const std::optional<FinishedRun> finished = read_finished(run);
  const std::vector<CheckpointName> checkpoints = list_checkpoints(run / "checkpoints");
  if (!finished || checkpoints.empty() || checkpoints.back().step <= finished->step) return;
  spdlog::warn(
      "{}: its model is that of step {}, and the run has gone on to step {} since; `thimble "
      "convert` makes a model of that",
      run.string(), finished->exported_step, checkpoints.back().step);
}

}  // namespace

std::filesystem::path model_directory(const std::filesystem::path& given) {
  std::error_code error;
  const auto has = [&error](const std::filesystem::path& path) {
    return std::filesystem::exists(path, error);
  };
  if (has(given / "model" / "config.json")) return given / "model";
  if (has(given / "config.json")) return given;
  if (error == std::errc::permission_denied)
    throw_user("cannot open {}: {}", given.string(), error.message());
  if (!std::filesystem::is_directory(given, error))
    throw_user("{}: not a directory; allowed a model directory or a run", given.string());
  if (has(given / "checkpoints")) {
    throw_user("{}: a run without an exported model; make one: thimble convert {} DIRECTORY",
               given.string(), given.string());
  }
  if (has(given / "MANIFEST")) {
    throw_user("{}: a checkpoint; make a model of it: thimble convert {} DIRECTORY", given.string(),
               given.string());
  }
  throw_user("{}: neither a model directory (config.json) nor a run (model/)", given.string());
}

LoadedModel load_model(const std::filesystem::path& given, const std::string& dtype,
                       const LargestUse& largest_use) {
  LoadedModel loaded;
  loaded.directory = model_directory(given);
  if (loaded.directory != given) warn_if_outdated(given);
  const ModelConfig config =
      load_hf_config(loaded.directory, [](const std::string& note) { spdlog::warn("{}", note); });
  loaded.dtype = dtype == "auto"   ? stored_dtype(loaded.directory)
                 : dtype == "bf16" ? DType::kBF16
                                   : DType::kF32;
  const bool bytes = std::filesystem::exists(loaded.directory / kByteTokenizerMarker);
  loaded.tokenizer = open_tokenizer(bytes ? "byte" : loaded.directory, config);
  loaded.model = std::make_unique<Transformer>(config);
  load_into(loaded, Arena::make_planning(),
            [](const std::string& note) { spdlog::info("{}", note); });
  largest_use(loaded);
  load_into(loaded, Arena::make_cpu(loaded.arena->extent_bytes() + kSpareBytes),
            [](const std::string&) {});
  return loaded;
}

void throw_not_finite(const LoadedModel& loaded, std::string_view what) {
  for (const ParamId id : loaded.model->params().ids()) {
    if (std::isfinite(ops::sum_squares(*loaded.arena, loaded.store->view(id)))) continue;
    throw_system("{}: the {} of the model is not finite: tensor {} holds NaN or infinity",
                 loaded.directory.string(), what, loaded.model->params().info(id).name);
  }
  throw_system("{}: the {} of the model is not finite, though all its weights are",
               loaded.directory.string(), what);
}

}  // namespace thimble
