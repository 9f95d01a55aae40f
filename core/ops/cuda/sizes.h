// What the GPU's kernels take beside their operands; known to every build, so that any machine can
// plan for one.
#pragma once

#include <algorithm>

#include "core/base/numeric.h"
#include "core/ops/kernel_table.h"

namespace thimble::cuda {

/// Room for 16 partial sums of the result, but no more than NVIDIA recommends for Hopper.
inline std::int64_t matmul_workspace_bytes(const MatmulSpec& s) {
  return std::min(32 * kMiB, 16 * 4 * s.m * s.n + 64 * kKiB);
}
inline std::int64_t attention_workspace_bytes(const AttentionSpec& s, bool backward) {
  return backward ? 4 * s.batch * s.heads * s.q_len : 0;
}

}  // namespace thimble::cuda
