// The start of a low-rank update from a matrix's largest singular values (PiSSA, Meng et al. 2024).
#pragma once

#include "models/adapter_source.h"

namespace thimble {

/// scale * b a <- what the largest r singular values of `weight` (f32) make up, shared evenly
/// between a and b. `weight` is in its storage layout; it is decomposed exactly if its short side
/// is at most 512, else by power iteration from a fixed start.
void principal_parts(Arena& arena, const ParamInfo& info, const Tensor& weight, double scale,
                     const LowRankFactors& factors);

}  // namespace thimble
