#include "core/ops/cpu/isa_declare.h"
#include "core/ops/fp8_math.h"

namespace thimble::THIMBLE_ISA {

const IsaKernels& isa_kernels() {
  static constexpr IsaKernels kTable{
      .cast = cast,
      .dequantize = dequantize,
      .quantize = quantize,
      .accumulate = accumulate,
      .add = add,
      .transpose = transpose,
      .row_squares = row_squares,
      .sum_in_order = sum_in_order,
      .embedding_grad = embedding_grad,
      .rms_norm = rms_norm,
      .rms_norm_grad = rms_norm_grad,
      .fold_rows = fold_rows,
      .column_sums = column_sums,
      .rope = rope,
      .swiglu = swiglu,
      .swiglu_grad = swiglu_grad,
      .cross_entropy = cross_entropy,
      .softmax_tile = softmax_tile,
      .softmax_grad_tile = softmax_grad_tile,
      .fp8_most = fp8_most,
      .fp8_scale = fp8_scale,
      .fp8_round_to = fp8_round_to,
      .row_dots = row_dots,
  };
  return kTable;
}

}  // namespace thimble::THIMBLE_ISA
