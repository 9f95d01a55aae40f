// What the GPU's kernels take beside their operands; known to every build, so that any machine can
// plan for one.
#pragma once

#include "core/base/numeric.h"
#include "core/ops/kernel_table.h"

namespace thimble::cuda {

/// What NVIDIA recommends for Hopper; with less some algorithms are impossible.
inline constexpr std::int64_t kMatmulWorkspaceBytes = 32 * kMiB;

inline std::int64_t matmul_workspace_bytes(const MatmulSpec&) {
  return kMatmulWorkspaceBytes;
}
inline std::int64_t attention_workspace_bytes(const AttentionSpec& s, bool backward) {
  return backward ? 4 * s.batch * s.heads * s.q_len : 0;
}

}  // namespace thimble::cuda
