#include "train/batch_sums.h"

#include <algorithm>

namespace thimble {

ExactSum total_weight(std::span<const Batch> batches) {
  ExactSum total;
  for (const Batch& batch : batches) {
    double sum = 0;
    for (const float w : batch.weights) sum += static_cast<double>(w);
    total.add(sum);
  }
  return total;
}

std::int64_t count_trained(std::span<const Batch> batches) {
  std::int64_t count = 0;
  for (const Batch& batch : batches) {
    count += std::count_if(batch.weights.begin(), batch.weights.end(),
                           [](float w) { return w != 0.0f; });
  }
  return count;
}

double weighted_sum(const float* losses, const Batch& batch) {
  double sum = 0;
  for (std::size_t i = 0; i < batch.weights.size(); ++i) {
    if (batch.weights[i] != 0.0f)
      sum += static_cast<double>(batch.weights[i]) * static_cast<double>(losses[i]);
  }
  return sum;
}

}  // namespace thimble
