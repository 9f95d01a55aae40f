// The GPU's kernels, as the fields of KernelTable; defined in the sources beside this.
#pragma once

#include "core/ops/cuda/sizes.h"
#include "core/ops/kernel_declare.h"

namespace thimble::cuda {

/// All of them.
const KernelTable& kernel_table();

void matmul(const MatmulSpec& s, const MatmulArgs& a);
void fp8_matmul(const Fp8MatmulSpec& s, const MatmulArgs& a);
/// An operand of a matmul in 8 bits: codes [m or n, k], and the power of two that multiplies them,
/// in the device's memory.
struct Fp8Operand {
  std::uint8_t* codes;
  float* scale;
};
/// a [m, k] times the transpose of b [n, k]; c, bias and workspace are those of `args`.
void fp8_gemm(const Fp8MatmulSpec& s, const Fp8Operand& a, const Fp8Operand& b,
              const MatmulArgs& args);
void embedding(void* out, const void* table, const std::int32_t* ids, std::int64_t tokens,
               std::int64_t cols, DType dtype);
void attention(const AttentionSpec& s, const AttentionArgs& a);
void attention_grad(const AttentionSpec& s, const AttentionGradArgs& g);

}  // namespace thimble::cuda
