// The sequences that `bench train` trains on.
#pragma once

#include "core/nn/batch.h"
#include "models/model_config.h"

namespace thimble {

/// Random tokens of a fixed seed, for the work does not depend on the text. `index` tells batches
/// apart.
Batch random_batch(const ModelConfig& config, std::int64_t rows, std::int64_t seq,
                   std::int64_t index);

}  // namespace thimble
