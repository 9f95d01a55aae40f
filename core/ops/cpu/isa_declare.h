// Declarations of the kernels of one instruction set; included by the files that define them and by
// the table.
#pragma once

#include "core/ops/cpu/isa_kernels.h"
#include "core/ops/kernel_declare.h"

namespace thimble::THIMBLE_ISA {

void softmax_tile(const SoftmaxTile& t, float* max, float* sum, float* shrink, void* p,
                  DType p_dtype);
void softmax_grad_tile(const SoftmaxTile& t, const float* lse, const float* delta, const float* dp,
                       void* p, void* ds, DType dtype);
float fp8_most(const void* x, DType dtype, std::int64_t n);
void fp8_round_to(void* dst, const void* x, DType dtype, std::int64_t n, float scale,
                  Fp8Format format);
void row_dots(float* out, const void* a, const void* b, DType dtype, std::int64_t rows,
              std::int64_t cols, std::int64_t stride);

}  // namespace thimble::THIMBLE_ISA
