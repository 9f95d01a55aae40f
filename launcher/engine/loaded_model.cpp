#include "launcher/engine/loaded_model.h"

#include <spdlog/spdlog.h>

#include <cmath>

#include "core/ops/ops.h"
#include "launcher/engine/job_setup.h"
#include "launcher/engine/weight_loading.h"
#include "launcher/run/machine.h"
#include "models/hf_export.h"
#include "models/weight_sources.h"

namespace thimble {
DType stored_dtype(const std::filesystem::path& directory) {
  const SafetensorsModel files = SafetensorsModel::open(directory);
  for (const auto& [name, location] : files.tensors()) {
    if (location.entry->dtype == DType::kF32) return DType::kF32;
  }
  return DType::kBF16;
}

LoadedModel load_model(const std::filesystem::path& given, const std::string& dtype) {
  LoadedModel loaded;
  loaded.directory =
      std::filesystem::exists(given / "model" / "config.json") ? given / "model" : given;
  const ModelConfig config = load_model_config(loaded.directory / "config.json");
  loaded.dtype = dtype == "auto"   ? stored_dtype(loaded.directory)
                 : dtype == "bf16" ? DType::kBF16
                                   : DType::kF32;
  const bool bytes = std::filesystem::exists(loaded.directory / kByteTokenizerMarker);
  loaded.tokenizer = open_tokenizer(bytes ? "byte" : loaded.directory, config);
  loaded.arena = Arena::make_cpu(memory_limit().total_bytes);
  loaded.model = std::make_unique<Transformer>(config);
  loaded.store = std::make_unique<ResidentParamStore>(*loaded.arena, loaded.model->params(),
                                                      loaded.dtype, false);
  HfSource source(*loaded.arena, loaded.directory, loaded.model->params(),
                  [](const std::string& note) { spdlog::info("{}", note); });
  load_weights(*loaded.arena, *loaded.model, *loaded.store, source);
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
