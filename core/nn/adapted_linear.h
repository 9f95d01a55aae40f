// Linear layers whose matrix is frozen and which learn by something small beside it: a low-rank
// update (LoRA, Hu et al. 2021), its decomposition into magnitude and direction (DoRA, Liu et al.
// 2024), one of random matrices that all layers share (VeRA, Kopiczko et al. 2024), or a vector
// that scales inputs or outputs (IA3, Liu et al. 2022).
#pragma once

#include "core/nn/packed_matrix.h"

namespace thimble {

/// What a linear layer has beside its matrix W [out, in]; what does not exist is left out.
struct LinearAdapter {
  Weight a, b;  // [r, in] and [out, r]: W + scale b a
  float scale = 1;
  Weight magnitude;  // [out], of a DoRA: the length of each row of W + scale b a
  /// [r] and [out], of a VeRA: a and b are the first columns and rows of larger matrices that are
  /// not trained, and x W^T + outer (b (inner (a x))).
  Weight inner, outer;
  Weight input_scale;   // [in], of an IA3: on x
  Weight output_scale;  // [out], of an IA3: on x W^T + bias
};

/// W: a parameter or packed.
struct FrozenMatrix {
  Weight weight;
  const PackedMatrix* packed = nullptr;
};

/// x [N, in] -> [N, out] = x W^T (+ bias).
Var frozen_linear(Context& ctx, const Var& x, const FrozenMatrix& matrix, Weight bias = {});

/// The same with the adapter. The length that a magnitude stands for counts as a constant in the
/// backward pass.
Var adapted_linear(Context& ctx, const Var& x, const LinearAdapter& adapter,
                   const FrozenMatrix& matrix, Weight bias = {});

/// out f32 [out] = the sums of squares of the rows of W + scale b a, a tile of rows at a time.
void adapted_row_squares(Arena& arena, ParamStore& store, const LinearAdapter& adapter,
                         const FrozenMatrix& matrix, const Tensor& out);

}  // namespace thimble
