// Weights from where they come from into the format in which they are kept, a few rows at a time.
#pragma once

#include "core/nn/state_residency.h"
#include "core/nn/trainable_model.h"
#include "train/train_engine.h"

namespace thimble {

/// What is loaded, and into what: a rank's rows of what stands for each weight.
struct WeightRowsToLoad {
  const StateTable& table;
  StateResidency& state;
  int rank = 0;
  LoadedWeights which = LoadedWeights::kAll;
};

/// Reads a rank's rows of every parameter into what stands for its weight: the master, or the
/// weight with its remainder or its scales. Throws what the source does.
void load_weights(Arena& arena, const WeightRowsToLoad& to, TensorSource& source);

/// Makes the rank's rows of the compute weights anew where there is an f32 master.
void derive_weights(const StateTable& table, StateResidency& state, int rank);

/// Reads every parameter of a store that has no master (evaluation, decoding).
void load_weights(Arena& arena, const TrainableModel& model, ResidentParamStore& store,
                  TensorSource& source);

}  // namespace thimble
