// The CPU's matmul: tiles of the result, each by one thread, by oneDNN where it has the
// types and converted to f32 where it has not (bf16 on AVX2).
#pragma once

#include "core/ops/kernel_table.h"

namespace thimble::cpu {

/// How the result [m, n] of a matmul is cut. Sums over k are never cut: a tile is a matmul of its
/// own. A function of the spec alone, so that bits do not depend on the number of threads.
struct MatmulTiles {
  std::int64_t rows = 0, cols = 0;  // of a tile; the last of each may be smaller
  std::int64_t down = 1, across = 1;
  explicit MatmulTiles(const MatmulSpec& spec);
};

/// Workspace of matmul() by team_threads() threads, in bytes.
std::int64_t matmul_workspace_bytes(const MatmulSpec& spec);
/// As MatmulSpec says; args.workspace holds matmul_workspace_bytes(). Throws LogicError if k is 0,
/// SystemError if oneDNN cannot.
void matmul(const MatmulSpec& spec, const MatmulArgs& args);

/// The layout of B that oneDNN prefers for the tiles of this matmul; none if the plain one is as
/// good.
PrepackedLayout prepacked_layout(const MatmulSpec& spec);
/// prepacked, of prepacked_layout(spec).bytes, <- b as the spec has it stored.
void prepack(const MatmulSpec& spec, const void* b, void* prepacked);

}  // namespace thimble::cpu
