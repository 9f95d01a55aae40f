// What a step adds up over its micro-batches.
#pragma once

#include <span>

#include "core/base/exact_sum.h"
#include "core/nn/batch.h"

namespace thimble {

/// The sum of the weights of all positions, by which the loss is divided.
ExactSum total_weight(std::span<const Batch> batches);
/// How many positions have a loss: their weight is not 0.
std::int64_t count_trained(std::span<const Batch> batches);
/// losses [rows * seq_len], weighted.
double weighted_sum(const float* losses, const Batch& batch);

}  // namespace thimble
