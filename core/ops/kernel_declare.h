// Declarations of the kernels that every backend defines, as the fields of KernelTable; each is
// compiled in a namespace of its own, THIMBLE_ISA.
#pragma once

#include "core/ops/kernel_table.h"

namespace thimble::THIMBLE_ISA {

void cast(void* dst, DType dst_dtype, const void* src, DType src_dtype, std::int64_t n);
void dequantize(void* dst, DType dst_dtype, const void* codes, const float* scales, std::int64_t n);
void quantize(void* codes, float* scales, const float* src, std::int64_t n);
void accumulate(void* dst, DType dst_dtype, const void* src, DType src_dtype, std::int64_t n);
void add(void* out, const void* a, const void* b, DType dtype, std::int64_t n);
void transpose(void* dst, const void* src, std::int64_t rows, std::int64_t cols,
               std::int64_t element_bytes);
void row_squares(double* out, const void* x, DType dtype, std::int64_t rows, std::int64_t cols);
void sum_in_order(void* dst, DType dst_dtype, const void* const* pieces, int count, DType dtype,
                  std::int64_t n, bool accumulate);
void embedding_grad(void* dtable, DType table_dtype, const void* dy, DType dy_dtype,
                    const std::int32_t* ids, const std::int32_t* order, std::int64_t tokens,
                    std::int64_t cols);
void rms_norm(const RmsNormArgs& a);
void rms_norm_grad(const RmsNormGradArgs& a);
void fold_rows(void* out, DType out_dtype, const float* partial, std::int64_t chunks,
               std::int64_t cols, bool accumulate);
void column_sums(float* partial, const void* dy, DType dtype, std::int64_t rows, std::int64_t cols);
void rope(const RopeArgs& a);
void swiglu(void* out, const void* gate, const void* up, DType dtype, std::int64_t n);
void swiglu_grad(void* dgate, void* dup, const void* dout, const void* gate, const void* up,
                 DType dtype, std::int64_t n);
void cross_entropy(const CrossEntropyArgs& a);

}  // namespace thimble::THIMBLE_ISA
