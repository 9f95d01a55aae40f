// Matmuls by our own kernels: operands are packed into panels, and blocks of C computed from them.
// The bits depend on the kernel's k_block alone, not on how C is cut or on the number of threads.
#pragma once

#include "core/ops/cpu/matmul_kernel.h"
#include "core/ops/kernel_table.h"

namespace thimble::cpu {

/// Workspace of blocked_matmul() by team_threads() threads, in bytes.
std::int64_t blocked_workspace_bytes(const MatmulKernel& kernel, const MatmulSpec& spec);

/// Runs the matmul on the threads of the team. k is at least 1; operands are f32 or bf16.
void blocked_matmul(const MatmulKernel& kernel, const MatmulSpec& spec, const MatmulArgs& args);

}  // namespace thimble::cpu
