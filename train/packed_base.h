// Fills the packed matrices of a model from where its weights come from.
#pragma once

#include "core/nn/packed_matrix.h"

namespace thimble {

/// Reads each matrix and packs it. NF4: codes to nearest, scales with the dynamic 8-bit code of
/// their difference from the mean, as in QLoRA; 8 bits: symmetric, to nearest. `arena`: that
/// of the matrices; one matrix is whole in its host memory at a time, in f32.
void load_packed(Arena& arena, const PackedMatrices& matrices, TensorSource& source);

}  // namespace thimble
