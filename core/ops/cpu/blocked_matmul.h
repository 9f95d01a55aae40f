// Matmuls by our own kernels: operands are packed into panels, and blocks of C computed from them.
// The bits depend on the kernel's k_block alone, not on how C is cut or on the number of threads.
#pragma once

#include "core/ops/cpu/matmul_kernel.h"
#include "core/ops/kernel_table.h"

namespace thimble::cpu {

/// Workspace of blocked_matmul() by team_threads() threads, in bytes.
std::int64_t blocked_workspace_bytes(const MatmulKernel& kernel, const MatmulSpec& spec);

/// C [m, n] (+)= op(A) op(B) (+ bias), as MatmulSpec says, on the threads of the team. k is at
/// least 1; A, B and C are f32 or bf16, sums f32; workspace as above, at a multiple of 64 bytes.
void blocked_matmul(const MatmulKernel& kernel, const MatmulSpec& spec, const MatmulArgs& args);

}  // namespace thimble::cpu
