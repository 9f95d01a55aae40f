// A batch on the device of the model that reads it.
#pragma once

#include <array>

#include "core/nn/batch.h"
#include "core/tensor/tensor.h"

namespace thimble {

/// A batch as tensors on the model's device, with what the operations need beside the ids.
struct BatchTensors {
  std::int64_t sequences = 0;
  Tensor ids, order;                // i32 [N]; order = token indices sorted by (id, index)
  Tensor targets, weights;          // i32, f32 [N]
  Tensor positions, segment_start;  // i32 [N]

  /// All the tensors above.
  static const std::array<Tensor BatchTensors::*, 6> kArrays;
};

inline constexpr std::array<Tensor BatchTensors::*, 6> BatchTensors::kArrays{
    &BatchTensors::ids,     &BatchTensors::order,     &BatchTensors::targets,
    &BatchTensors::weights, &BatchTensors::positions, &BatchTensors::segment_start};

/// Uninitialised, N = positions (tag activations).
BatchTensors empty_batch(Arena& arena, std::int64_t sequences, std::int64_t positions);
/// `to` is in the host's memory.
void fill_batch(const BatchTensors& to, const Batch& batch);

/// Copies a batch into the arena (tag activations). On a planning arena only the sizes are used.
BatchTensors upload(Arena& arena, const Batch& batch);

}  // namespace thimble
