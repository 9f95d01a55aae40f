// The kernel table of GPUs.
#include "core/device/cuda/runtime.h"
#include "core/ops/cuda/declare.h"

namespace thimble::cuda {

const KernelTable& kernel_table() {
  static const KernelTable kTable{
      .name = "gpu",
      .matmul_workspace_bytes = matmul_workspace_bytes,
      .matmul = matmul,
      .fp8_matmul_workspace_bytes = fp8_matmul_workspace_bytes,
      .fp8_matmul = fp8_matmul,
      .prepacked_layout = [](const MatmulSpec&) { return PrepackedLayout{}; },
      .prepack = [](const MatmulSpec&, const void*, void*) {},
      .zero = gpu::zero,
      .copy = gpu::copy,
      .cast = cast,
      .dequantize = dequantize,
      .quantize = quantize,
      .accumulate = accumulate,
      .add = add,
      .transpose = transpose,
      .row_squares = row_squares,
      .sum_in_order = sum_in_order,
      .embedding = embedding,
      .embedding_grad = embedding_grad,
      .rms_norm = rms_norm,
      .rms_norm_grad = rms_norm_grad,
      .fold_rows = fold_rows,
      .column_sums = column_sums,
      .rope = rope,
      .swiglu = swiglu,
      .swiglu_grad = swiglu_grad,
      .attention_workspace_bytes = attention_workspace_bytes,
      .attention = attention,
      .attention_grad = attention_grad,
      .cross_entropy = cross_entropy,
  };
  return kTable;
}

}  // namespace thimble::cuda
