// How the library's matmuls are cut: tiles of the result, each computed by one thread, by oneDNN
// where it has the types and converted to f32 where it has not (bf16 on AVX2). Our own are in
// blocked_matmul.h.
#pragma once

#include "core/ops/cpu/kernels.h"

namespace thimble::cpu {

/// Multiplications and additions in the time of reading a value from memory.
inline constexpr std::int64_t kOpsPerValue = 16;
/// Alignment of the parts of a matmul's workspace, in bytes.
inline constexpr std::int64_t kAlign = 64;

/// How the result [m, n] of a matmul is cut. Sums over k are never cut: a tile is a matmul of its
/// own. A function of the spec alone, so that bits do not depend on the number of threads.
struct MatmulTiles {
  std::int64_t rows = 0, cols = 0;  // of a tile; the last of each may be smaller
  std::int64_t down = 1, across = 1;
  explicit MatmulTiles(const MatmulSpec& spec);
};

/// The layout of B that oneDNN prefers for the tiles of this matmul, whether or not it pays on this
/// CPU; none if the plain one is as good.
PrepackedLayout preferred_layout(const MatmulSpec& spec);

}  // namespace thimble::cpu
