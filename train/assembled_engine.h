// The one place where a model, its frozen parameters, its optimizer and its engine are put
// together: for training, for planning (on a planning arena) and for benchmarks alike, so that what
// is planned is what runs.
#pragma once

#include <memory>

#include "compress/compressor_model.h"
#include "models/transformer.h"
#include "offload/hosted_state.h"
#include "offload/offloaded_activations.h"
#include "train/offload_stores.h"
#include "train/train_spec.h"

namespace thimble {

/// Marks the parameters that match the patterns as not trained. Throws UserError for a pattern
/// without a match, or when nothing is left to train.
void freeze_parameters(const std::vector<std::string>& patterns, Transformer& model);

/// The optimizer of the parameters that are not frozen. Throws UserError for a group that makes no
/// sense of them.
OptimizerGroups make_optimizer(const OptimizerSpec& spec, const ParamTable& params);

/// Where the weights come from: spec.model_dir, or random numbers of engine.seed; those of adapters
/// from spec.adapter_dir, or from where they begin; those of a compressor (null: there is none)
/// likewise. `arena` is one in the host's memory; the models must outlive what is returned.
std::unique_ptr<TensorSource> open_weights(Arena& arena, const TrainSpec& spec,
                                           const Transformer& model,
                                           const CompressorModel* compressor);

struct AssembledEngine {
  /// Everything of one rank, in the arena's phase "load"; no weights are read yet. arena and comm
  /// must outlive it; all ranks make theirs together. Throws UserError for settings that do not go
  /// together.
  /// `run`: of a state on disk (spec.offload).
  AssembledEngine(const TrainSpec& spec, Arena& arena, Communicator& comm, OffloadedRun run = {});

  /// Loads all weights.
  void load(TensorSource& source);
  /// Loads those that no checkpoint has; see TrainEngine::load_frozen().
  void load_frozen(TensorSource& source);

  /// Of this rank, all that its engine keeps there; on a planning arena, what it would have moved.
  DiskTraffic disk_traffic() const;
  /// The same between a GPU and its host, of updates whose state is there.
  HostTraffic host_traffic() const;

  /// What the engine trains: the model, or the compressor beside it.
  const TrainableModel& trained() const {
    return compressor ? static_cast<const TrainableModel&>(*compressor) : model;
  }

  Transformer model;
  std::unique_ptr<CompressorModel> compressor;  // null: none is trained
  std::unique_ptr<PackedMatrices> packed;       // null: none of the model's are
  OptimizerGroups optimizer;
  std::unique_ptr<OffloadStores> offload;       // null: all state is in memory
  OffloadedActivations* activations = nullptr;  // the engine's; null: they are in memory
  HostedState* hosted = nullptr;                // the engine's; null: its state is elsewhere
  TrainEngine engine;

 private:
  EngineStores stores(const OffloadSpec& spec);
};

}  // namespace thimble
