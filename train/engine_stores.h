// What an engine keeps its weights, its state and its gradients in, by its options.
#pragma once

#include <memory>
#include <vector>

#include "parallel/weight_stores.h"
#include "train/train_engine.h"

namespace thimble {

/// The dtypes of the gradient of one micro-batch, by parameter.
std::vector<DType> grad_dtypes(const TrainableModel& model, const EngineOptions& options,
                               int ranks);
/// The dtypes of gradients that wait with the state, of all ranks and micro-batches; none: they
/// wait in memory. Throws UserError if they cannot wait there.
std::vector<DType> stored_dtypes(const TrainableModel& model, const EngineOptions& options,
                                 int ranks);

/// Throws UserError for weights that the options cannot have there.
std::unique_ptr<WeightStore> make_store(Arena& arena, const TrainableModel& model,
                                        const EngineOptions& options, const StoreParts& parts,
                                        const EngineStores& stores);
std::unique_ptr<StateStore> make_state_store(Arena& arena, const StateTable& table, int rank,
                                             const EngineStores& stores);

}  // namespace thimble
