#include "launcher/trainer/loaded_model.h"

#include <spdlog/spdlog.h>

#include <cmath>
#include <cstdlib>

#include "checkpoint/checkpoint_directory.h"
#include "compress/kvc_config.h"
#include "core/base/text.h"
#include "core/ops/ops.h"
#include "launcher/job/load_job.h"
#include "launcher/job/paths.h"
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
  std::unique_ptr<TensorSource> source =
      std::make_unique<HfSource>(*loaded.arena, loaded.directory, loaded.model->params(), note);
  if (!loaded.adapters.empty()) {
    source = std::make_unique<MergedSource>(*loaded.arena, loaded.model->config(),
                                            std::move(source), loaded.adapters);
  }
  load_weights(*loaded.arena, *loaded.model, *loaded.store, *source);
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
  if (has(given / kAdapterConfigName) || has(given / "model" / kAdapterConfigName)) {
    throw_user("{}: an adapter, not a model; make one of both: thimble merge BASE {} DIRECTORY",
               given.string(), given.string());
  }
  if (has(given / kKvcConfigName) || has(given / "model" / kKvcConfigName)) {
    throw_user("{}: a compressor, not a model; give it by --compressor beside --model",
               given.string());
  }
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

namespace {

// Empty: no adapter is there.
std::filesystem::path adapter_directory(const std::filesystem::path& given) {
  if (is_adapter_directory(given / "model")) return given / "model";
  return is_adapter_directory(given) ? given : std::filesystem::path();
}

// DIR or DIR=WEIGHT.
MergedAdapter parse_adapter(const std::string& text) {
  MergedAdapter adapter{.directory = text};
  const std::size_t equals = text.rfind('=');
  if (equals != std::string::npos && !std::filesystem::exists(text)) {
    adapter.directory = text.substr(0, equals);
    const std::string weight = text.substr(equals + 1);
    char* end = nullptr;
    adapter.weight = std::strtod(weight.c_str(), &end);
    if (weight.empty() || *end != '\0' || !std::isfinite(adapter.weight))
      throw_user("--adapter {}: its weight is no number", printable(text, 200));
  }
  const std::filesystem::path found = adapter_directory(adapter.directory);
  if (found.empty()) {
    throw_user("{}: no adapter (it has no {})", printable(adapter.directory.string(), 200),
               kAdapterConfigName);
  }
  adapter.directory = found;
  return adapter;
}

std::filesystem::path base_of(const std::filesystem::path& adapter) {
  const std::string name = load_adapter_config(adapter).base_model;
  std::error_code ignored;
  if (!name.empty() && std::filesystem::is_directory(name, ignored)) return model_directory(name);
  const std::filesystem::path cached = job::find_in_hub_cache(name, job::process_environment());
  if (!cached.empty()) return cached;
  throw_user(
      "{}: its base model '{}' is neither a directory nor in the Hub cache; name a model with "
      "--model",
      (adapter / kAdapterConfigName).string(), printable(name, 200));
}

}  // namespace

FoundModel find_model(const ModelChoice& choice) {
  FoundModel found;
  const std::filesystem::path own = adapter_directory(choice.model);
  if (!choice.model.empty() && !own.empty()) found.adapters.push_back({.directory = own});
  for (const std::string& text : choice.adapters) found.adapters.push_back(parse_adapter(text));
  if (!choice.model.empty() && own.empty()) {
    found.directory = model_directory(choice.model);
    if (found.directory != choice.model) warn_if_outdated(choice.model);
  } else if (!found.adapters.empty()) {
    found.directory = base_of(found.adapters.front().directory);
  } else {
    throw_user("--model or --adapter: one of them is needed");
  }
  return found;
}

LoadedModel load_model(const ModelChoice& choice, const std::string& dtype,
                       const LargestUse& largest_use) {
  LoadedModel loaded;
  FoundModel found = find_model(choice);
  loaded.directory = std::move(found.directory);
  loaded.adapters = std::move(found.adapters);
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
