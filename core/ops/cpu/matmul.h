// The CPU's matrix product: oneDNN where it has the types, blocks converted to f32 where it has not
// (bf16 on AVX2).
#pragma once

#include "core/ops/cpu/onednn_matmul.h"

namespace thimble::cpu {

/// The whole team unless the product is too small to wake it for: a function of sizes alone.
onednn::Team team_of(const MatmulSpec& spec);

std::int64_t matmul_workspace_bytes(const MatmulSpec& spec, onednn::Team team);
void matmul(const MatmulSpec& spec, const MatmulArgs& args, onednn::Team team);

}  // namespace thimble::cpu
