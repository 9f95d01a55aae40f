#include "train/assembled_engine.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "compress/kvc_file.h"
#include "core/base/regex.h"
#include "models/adapter_source.h"
#include "models/weight_sources.h"
#include "train/compressor_parts.h"
#include "train/packed_base.h"
#include "train/principal_parts.h"
#include "train/state_window.h"

namespace thimble {
namespace {

const ParamTable& frozen_parameters(const TrainSpec& spec, Transformer& model,
                                    const CompressorModel* compressor) {
  if (compressor != nullptr) return compressor->params();
  freeze_parameters(spec.freeze, model);
  return model.params();
}

Arena& in_load_phase(Arena& arena) {
  arena.begin_phase("load");
  return arena;
}

void require_projecting(const OptimizerSpec& spec) {
  const auto projects = [](const GroupSettings& group) {
    const OptimizerEntry* entry = find_optimizer(group.optimizer.name);
    // An unknown name has a message of its own.
    return entry == nullptr || reads_key(*entry, "project_gradients");
  };
  if (projects(spec.main) || std::any_of(spec.groups.begin(), spec.groups.end(), projects)) return;
  std::string names;
  for (const OptimizerEntry& e : optimizer_entries()) {
    if (!reads_key(e, "project_gradients")) continue;
    names += (names.empty() ? "" : ", ") + std::string(e.name);
  }
  throw_user("optimizer.project_gradients = true: {} takes whole gradients; allowed with {}",
             spec.main.optimizer.name, names);
}

std::unique_ptr<PackedMatrices> make_packed(const TrainSpec& spec, Arena& arena,
                                            Transformer& model) {
  if (model.packed().empty()) return nullptr;
  auto packed = std::make_unique<PackedMatrices>(arena, *spec.adapter->base, model.packed());
  model.set_packed(*packed);
  return packed;
}

// What the engine has to know of what lies elsewhere.
EngineOptions engine_options(const TrainSpec& spec) {
  EngineOptions options = spec.engine;
  options.stored_gradients = spec.offload.gradients || spec.offload.host_gradients;
  // In memory there is nothing to wait for.
  options.delayed_update = spec.offload.delayed_update && spec.offload.any_away();
  // On disk they are kept for this run, wherever they came from.
  options.leaves_frozen =
      (spec.adapter.has_value() || spec.compressor.has_value()) && !spec.offload.weights;
  options.gpu_share = spec.offload.host_state ? spec.offload.gpu_share : 1;
  return options;
}

}  // namespace

void freeze_parameters(const std::vector<std::string>& patterns, Transformer& model) {
  for (const std::string& pattern : patterns) {
    const Regex regex(pattern, Regex::Kind::kBytes, "model.freeze");
    bool matched = false;
    for (const ParamId id : model.params().ids()) {
      if (!regex.matches_whole(model.params().info(id).name)) continue;
      model.params().set_trainable(id, false);
      matched = true;
    }
    if (!matched)
      throw_user("model.freeze = '{}': matches no tensor; `thimble inspect model` lists them",
                 pattern);
  }
  for (const ParamId id : model.params().ids()) {
    if (model.params().info(id).trainable) return;
  }
  throw_user("model.freeze: every tensor is frozen, nothing is left to train");
}

OptimizerGroups make_optimizer(const OptimizerSpec& spec, const ParamTable& params) {
  if (spec.main.optimizer.project_gradients) require_projecting(spec);
  return {params, spec.groups, spec.main, spec.fallback};
}

std::unique_ptr<TensorSource> open_weights(Arena& arena, const TrainSpec& spec,
                                           const Transformer& model,
                                           const CompressorModel* compressor) {
  const auto open = [&](const ParamTable& params) -> std::unique_ptr<TensorSource> {
    if (spec.model_dir.empty())
      return std::make_unique<InitSource>(spec.engine.seed, spec.model.init_std,
                                          spec.model.unit_norms);
    return std::make_unique<HfSource>(arena, spec.model_dir, params,
                                      [](const std::string& note) { spdlog::info("{}", note); });
  };
  if (compressor != nullptr) {
    if (!spec.compressor_dir.empty() && !arena.device().planning) {
      check_base(load_kvc_config(spec.compressor_dir), kvc_base(spec.model, spec.model_dir),
                 spec.compressor_dir, false);
    }
    return std::make_unique<CompressorSource>(
        arena, *compressor, open(model.params()),
        CompressorStart{.directory = spec.compressor_dir, .seed = spec.engine.seed});
  }
  if (model.adapters().empty()) return open(model.params());
  return std::make_unique<AdapterSource>(
      arena, model, open(Transformer(spec.model).params()),
      AdapterStart{
          .directory = spec.adapter_dir, .seed = spec.engine.seed, .dtype = spec.engine.dtype},
      principal_parts);
}

AssembledEngine::AssembledEngine(const TrainSpec& spec, Arena& arena, Communicator& comm,
                                 OffloadedRun run)
    : model(spec.model, spec.adapter),
      compressor(make_compressor(spec, model)),
      packed(make_packed(spec, in_load_phase(arena), model)),
      optimizer(make_optimizer(spec.optimizer, frozen_parameters(spec, model, compressor.get()))),
      offload(spec.offload.state
                  ? std::make_unique<OffloadStores>(spec.offload, optimizer, comm, std::move(run))
                  : nullptr),
      engine(arena, trained(), optimizer, engine_options(spec), {comm, stores(spec.offload)}) {}

void AssembledEngine::load(TensorSource& source) {
  if (packed) load_packed(engine.arena(), *packed, source);
  engine.load(source);
}

void AssembledEngine::load_frozen(TensorSource& source) {
  if (packed) load_packed(engine.arena(), *packed, source);
  if (engine.options().leaves_frozen) engine.load_frozen(source);
}

EngineStores AssembledEngine::stores(const OffloadSpec& spec) {
  EngineStores stores = offload ? offload->stores() : EngineStores{};
  if (spec.host_state) {
    stores.state = [this, spec](Arena& arena, const StateTable& table, int rank) {
      const std::int64_t least = 3 * least_window_bytes(table, optimizer, rank, false),
                         wanted = spec.window_bytes > 0 ? spec.window_bytes
                                                        : usual_window(table, rank, spec);
      auto made = std::make_unique<HostedState>(arena, table, rank, std::max(wanted, least));
      hosted = made.get();
      return made;
    };
  }
  if (spec.activations == ActivationPlace::kMemory) return stores;
  ActivationOptions options{.on_disk = spec.activations == ActivationPlace::kSsd,
                            .directories = {spec.directory},
                            .disk_rates = spec.disk_rates};
  options.directories.insert(options.directories.end(), spec.more_directories.begin(),
                             spec.more_directories.end());
  if (spec.window_bytes > 0) options.window_bytes = spec.window_bytes;
  stores.activations = [this, options](Arena& arena) {
    auto made = std::make_unique<OffloadedActivations>(arena, options);
    activations = made.get();
    return made;
  };
  return stores;
}

DiskTraffic AssembledEngine::disk_traffic() const {
  DiskTraffic all = offload ? offload->home()->traffic() : DiskTraffic{};
  if (activations != nullptr) all += activations->traffic();
  return all;
}

HostTraffic AssembledEngine::host_traffic() const {
  return hosted == nullptr ? HostTraffic{} : hosted->traffic() + engine.staged_traffic();
}

}  // namespace thimble
