// What the blocked matmul (blocked_matmul.h) needs of a set of instructions: how operands are
// packed, and the product of two packed blocks.
//
// A packed operand is a row of panels. A panel holds as many rows of A (or columns of B) as the
// micro-kernel multiplies at a time, all of a block of k, in the order in which it reads them;
// what is missing at the edges is zero. Ref: Goto and van de Geijn 2008, "Anatomy of
// High-Performance Matrix Multiplication".
#pragma once

#include <cstdint>

#include "core/ops/kernel_table.h"

namespace thimble {

/// A matrix to pack: element (i, p), i < count a row of A or a column of B and p < k, lies at
/// i * stride_i + p * stride_k. One of the strides is 1.
struct PackSource {
  const void* from = nullptr;
  DType dtype = DType::kF32;
  std::int64_t stride_i = 0, stride_k = 0;
  std::int64_t count = 0, k = 0;
};

/// c [rows, cols] f32, rows ldc apart, (+)= a [rows, k] b [k, cols], both packed in `packed` of the
/// kernel. rows, cols and k are multiples of the kernel's rows, cols and k_step; b lies at a
/// multiple of 64 bytes.
struct PackedBlocks {
  const void* a = nullptr;
  std::int64_t a_row = 0, a_k = 0;  // strides if a is not packed (MatmulKernel::reads_plain_rows)
  const void* b = nullptr;
  float* c = nullptr;
  std::int64_t ldc = 0;
  std::int64_t rows = 0, cols = 0, k = 0;
  bool accumulate = false;
  std::int64_t b_k = 0;  // of the panels of b, if they are longer than k
};

/// The kernel of one path under one instruction set.
struct MatmulKernel {
  MatmulPath path = MatmulPath::kF32;
  DType packed = DType::kF32;
  std::int64_t rows = 0, cols = 0;  // of C, by the micro-kernel
  std::int64_t k_step = 1;          // packed k is a multiple of it
  // Blocks: k_block columns of A and rows of B stay in the first-level cache as panels of B and in
  // the second as a block of A. How k is cut decides the bits; how C is cut does not.
  std::int64_t k_block = 0, row_block = 0, col_block = 0;
  // Whether `multiply` takes an A that is not packed: with few rows to a micro-tile its elements
  // are addressed as fast where they lie, and what is used once need not be copied.
  bool reads_plain_rows = false;
  // Packs all of a source, of f32 or bf16: count rounded up to rows (or cols), times k rounded up
  // to k_step, elements of `packed`. f32 is rounded where `packed` is bf16.
  void (*pack_rows)(void* packed, const PackSource& a) = nullptr;
  void (*pack_cols)(void* packed, const PackSource& b) = nullptr;
  void (*multiply)(const PackedBlocks& blocks) = nullptr;
  // Multiplies registers alone, `rounds` times: what the core can do at most.
  void (*spin)(std::int64_t rounds) = nullptr;
  double flops_per_round = 0;
};

namespace avx2 {
/// Null for paths that the instruction set lacks; kLibrary has none.
const MatmulKernel* matmul_kernel(MatmulPath path);
}  // namespace avx2
namespace avx512 {
const MatmulKernel* matmul_kernel(MatmulPath path);
}  // namespace avx512

}  // namespace thimble
