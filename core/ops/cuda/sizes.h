// What the GPU's kernels need beside their operands; known to every build, so that any machine can
// plan for a GPU.
#pragma once

#include <algorithm>

#include "core/base/numeric.h"
#include "core/ops/kernel_table.h"

namespace thimble::cuda {

/// Room for 16 partial sums of the result, but no more than NVIDIA recommends for Hopper.
inline std::int64_t matmul_workspace_bytes(const MatmulSpec& s) {
  return std::min(32 * kMiB, 16 * 4 * s.m * s.n + 64 * kKiB);
}
inline constexpr std::int64_t kFp8Partials = 512;  // blocks that look for a largest magnitude
/// Where things lie in the workspace of a matmul in 8 bits: codes of both operands, two scales,
/// partial maxima, the matmul's own workspace.
struct Fp8Workspace {
  std::int64_t a = 0, b, scales, partials, inner, bytes;
  explicit Fp8Workspace(const Fp8MatmulSpec& s)
      : b(round_up(s.matmul.m * s.matmul.k, 256)),
        scales(b + round_up(s.matmul.n * s.matmul.k, 256)),
        partials(scales + 256),
        inner(partials + 4 * kFp8Partials),
        bytes(inner + matmul_workspace_bytes(s.matmul)) {}
};
inline std::int64_t fp8_matmul_workspace_bytes(const Fp8MatmulSpec& s) {
  return Fp8Workspace(s).bytes;
}
/// GPUs multiply weights as they are stored.
inline PrepackedLayout prepacked_layout(const MatmulSpec&) {
  return {};
}
inline std::int64_t attention_workspace_bytes(const AttentionSpec& s, bool backward) {
  return backward ? 4 * s.batch * s.heads * s.q_len : 0;
}

}  // namespace thimble::cuda
