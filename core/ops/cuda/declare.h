// The GPU's kernels, as the fields of KernelTable; defined in the sources beside this.
#pragma once

#include "core/ops/cuda/sizes.h"
#include "core/ops/kernel_declare.h"

namespace thimble::cuda {

/// All of them.
const KernelTable& kernel_table();

void matmul(const MatmulSpec& s, const MatmulArgs& a);
void embedding(void* out, const void* table, const std::int32_t* ids, std::int64_t tokens,
               std::int64_t cols, DType dtype);
void attention(const AttentionSpec& s, const AttentionArgs& a);
void attention_grad(const AttentionSpec& s, const AttentionGradArgs& g);

}  // namespace thimble::cuda
