// Weights from where they come from into the format in which they are kept, a few rows at a time.
#pragma once

#include "core/nn/trainable_model.h"

namespace thimble {

/// Reads rows of a parameter into a f32 or bf16 weight; what a bf16 weight lacks goes to
/// `remainder` (u16) if that is defined.
void load_rows(Arena& arena, const ParamInfo& info, Slice rows, TensorSource& source,
               const Tensor& weight, const Tensor& remainder = {});

/// Into 8-bit codes and the scales of their groups.
void load_int8(Arena& arena, const ParamInfo& info, Slice rows, TensorSource& source,
               const Tensor& codes, const Tensor& scales);

/// Reads every parameter of a store that has no master (evaluation, decoding).
void load_weights(Arena& arena, const TrainableModel& model, ResidentParamStore& store,
                  TensorSource& source);

}  // namespace thimble
