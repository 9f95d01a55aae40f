// The GPU's kernels, named as in KernelTable; defined in the sources beside this.
#pragma once

#include "core/ops/cuda/sizes.h"

namespace thimble::cuda {

/// The table of all of them.
const KernelTable& kernel_table();

THIMBLE_GPU_KERNELS(THIMBLE_DECLARE_KERNEL)

/// An operand of a matmul in 8 bits: codes [m or n, k], and the power of two that multiplies them,
/// in the device's memory.
struct Fp8Operand {
  std::uint8_t* codes;
  float* scale;
};
/// a [m, k] times the transpose of b [n, k]; c, bias and workspace are those of `args`.
void fp8_gemm(const Fp8MatmulSpec& s, const Fp8Operand& a, const Fp8Operand& b,
              const MatmulArgs& args);

}  // namespace thimble::cuda
