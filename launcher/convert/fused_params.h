// Between parameters as a model has them and as files of some families hold them: several
// projections in one matrix (models/fused_tensors.h).
#pragma once

#include "launcher/convert/checkpoint_image.h"

namespace thimble {

/// Replaces every matrix that holds several parameters of the model by those parameters, with their
/// masters and moments.
void split_fused(CheckpointImage& image, const ParamTable& params);

/// Puts them together again, for a target that names tensors as transformers does.
void join_fused(CheckpointImage& image, const ParamTable& params);

}  // namespace thimble
