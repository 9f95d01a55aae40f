// How a projection P [s, r] that is kept between steps lies in memory.
#pragma once

#include <vector>

#include "optim/low_rank.h"

namespace thimble {

enum class ProjectorFormat : std::uint8_t {
  kF32,
  kBF16,
  kInt4,  // two codes a byte, of groups of kInt4Group elements with a f32 step and minimum each
};
inline constexpr std::int64_t kInt4Group = 256;

/// "projector", and of 4 bits "projector_scales" [groups, 2]; the same on every slice.
std::vector<StateSlot> projector_slots(const LowRankShape& shape, ProjectorFormat format);

/// P in `dtype` (bf16 or f32) in the arena's workspace. state: what projector_slots() describes.
Tensor load_projector(Arena& arena, const LowRankShape& shape, ProjectorFormat format,
                      std::span<const Tensor> state, DType dtype);
/// Keeps P, f32. Codes are rounded to nearest; a group's smallest and largest values are kept
/// exactly. Ref: Zhang et al. 2024, "Q-GaLore", section 3.3.
void store_projector(const Tensor& p, ProjectorFormat format, std::span<const Tensor> state);

}  // namespace thimble
