// How fast a step could be if its matrix products were all there is: each product of the model
// timed alone, warm and with packed weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/dtype.h"
#include "core/device/device.h"
#include "models/model_config.h"

namespace thimble {

/// One kind of product in a training step.
struct ProductRate {
  std::string name;  // "forward", "input gradient", "weight gradient"
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t count = 0;  // per micro-batch
  double flops_per_s = 0;  // best of several runs
  double seconds() const {
    return static_cast<double>(count) * 2.0 * static_cast<double>(m) * static_cast<double>(n) *
           static_cast<double>(k) / flops_per_s;
  }
};

struct SpeedOfLight {
  std::vector<ProductRate> products;
  /// Seconds that the products of one micro-batch take at their best rates.
  double seconds_per_micro_batch() const;
};

/// Times every distinct product of a step over `tokens` positions; takes about a second at 130M.
/// Gradients of weights are written in `grad_dtype`. The head's products run in chunks of rows, as
/// in training.
SpeedOfLight measure_speed_of_light(DeviceKind device, const ModelConfig& config,
                                    std::int64_t tokens, DType dtype, DType grad_dtype);

/// FLOPs per second of one product [m, k] x [k, n], best of several runs, weights packed.
double product_rate(DeviceKind device, std::int64_t m, std::int64_t n, std::int64_t k, DType dtype);

}  // namespace thimble
