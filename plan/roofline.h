// The roofline of a training step: how fast it could be if its matmuls were all there is. Each
// matmul of the model is timed alone, warm, by every path (core/ops/matmul_path.h) that may be the
// fastest on this CPU, whichever the run takes.
//
// `sol` ("speed of light") in metrics, progress lines and benchmarks is the fraction of this bound
// that a step reaches: the seconds that its matmuls take alone, divided by the seconds that the
// step takes. 1 would be a step that spends no time outside its matmuls, all of them at their best
// rates.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/dtype.h"
#include "core/device/device.h"
#include "core/ops/matmul_path.h"
#include "models/model_config.h"

namespace thimble {

/// FLOPs per second of a matmul by one path.
struct PathRate {
  MatmulPath path = MatmulPath::kLibrary;
  double flops_per_s = 0;
};

/// One kind of matmul in a training step.
struct MatmulRate {
  std::string name;  // "forward", "input gradient", "weight gradient"
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t count = 0;              // per micro-batch
  double flops_per_s = 0;              // best of several runs and of every path
  std::vector<PathRate> by_path = {};  // on a CPU
  double seconds() const {
    return static_cast<double>(count) * 2.0 * static_cast<double>(m) * static_cast<double>(n) *
           static_cast<double>(k) / flops_per_s;
  }
};

struct Roofline {
  std::vector<MatmulRate> matmuls;
  /// Seconds that the matmuls of one micro-batch take at their best rates.
  double seconds_per_micro_batch() const;
};

/// Times every distinct matmul of a step over `tokens` positions; takes about a second at 130M.
/// Gradients of weights are written in `grad_dtype`. The matmuls of the LM head run in chunks of
/// positions, as in training.
Roofline measure_roofline(DeviceKind device, const ModelConfig& config, std::int64_t tokens,
                          DType dtype, DType grad_dtype);

/// FLOPs per second of one matmul [m, k] x [k, n] by the path that the process takes, best of
/// several runs.
double matmul_rate(DeviceKind device, std::int64_t m, std::int64_t n, std::int64_t k, DType dtype);

}  // namespace thimble
