// The CPU's matrix product: oneDNN where it has the types, blocks converted to f32 where it has not
// (bf16 on AVX2).
#pragma once

#include "core/ops/cpu/onednn_matmul.h"

namespace thimble::cpu {

std::int64_t matmul_workspace_bytes(const MatmulSpec& spec, onednn::Team team);
void matmul(const MatmulSpec& spec, const MatmulArgs& args, onednn::Team team);

}  // namespace thimble::cpu
