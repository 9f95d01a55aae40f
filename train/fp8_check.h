// Whether matmuls in 8 bits are possible.
#pragma once

#include "train/train_engine.h"

namespace thimble {

/// Throws UserError, naming what must change, if `options` ask for matmuls in 8 bits that this
/// model, sequence length or GPU cannot have: sizes are multiples of kFp8Multiple, so that none is
/// quietly made in bf16 instead.
void check_fp8(const EngineOptions& options, const TrainableModel& model, const Arena& arena);

}  // namespace thimble
