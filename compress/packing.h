// Codes of few bits for a block of keys or values. Keys have a scale per channel and `group`
// tokens, for some channels are large in every key; values have one per token and up to 32
// channels. Ref: Liu et al. 2024, "KIVI", section 3.
#pragma once

#include <cstdint>

#include "compress/tile_kernels.h"

namespace thimble {

/// Step and least value for codes 0 .. 2^bits - 1, f16 each, that cover [low, high]: the least
/// value is rounded down and the step up. Beyond the range of f16 they are cut.
CodeScale code_scale(float low, float high, std::int64_t bits);

/// A row of n values as codes, n' = n * bits / 8 bytes (see tile_kernels.h); value i is of group
/// i / group, whose scale is written to scales[i / group].
struct PackRow {
  std::int64_t n = 0, bits = 0, group = 0;
};
void pack_row(const PackRow& row, const float* values, std::uint8_t* codes, CodeScale* scales);
void unpack_row(const PackRow& row, const std::uint8_t* codes, const CodeScale* scales,
                float* values);

}  // namespace thimble
