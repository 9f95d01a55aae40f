// What a step adds up over its micro-batches.
#pragma once

#include <span>

#include "core/base/exact_sum.h"
#include "core/nn/batch.h"

namespace thimble {

/// Of the losses of all positions.
ExactSum total_weight(std::span<const Batch> batches);
/// Positions whose loss has a weight.
std::int64_t count_trained(std::span<const Batch> batches);
/// losses [rows * seq_len], weighted.
double weighted_sum(const float* losses, const Batch& batch);

}  // namespace thimble
