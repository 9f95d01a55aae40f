// Matmuls in 8 bits on a CPU: operands are rounded as on a GPU, and multiplied as bf16, which
// holds every value of both formats.
#pragma once

#include "core/ops/kernel_table.h"

namespace thimble::cpu {

std::int64_t fp8_matmul_workspace_bytes(const Fp8MatmulSpec& s);
void fp8_matmul(const Fp8MatmulSpec& s, const MatmulArgs& a);

}  // namespace thimble::cpu
