// The inner loops of attention over blocks of a compressed cache, compiled per instruction set.
//
// A block holds kBlockTokens positions of one head: keys channel by channel, so that the scores of
// many positions grow in the lanes of a vector, and values position by position. Packed blocks hold
// codes of 8, 4 or 2 bits: a row of n values takes n * bits / 8 bytes, and byte i has the codes of
// the values i, i + n', i + 2 n', ..., where n' is the number of bytes, the first in its lowest
// bits.
#pragma once

#include <cstdint>

#include "compress/kv_options.h"
#include "core/base/dtype.h"

namespace thimble {

enum class TileFormat : std::uint8_t { kF32, kBF16, kBits8, kBits4, kBits2 };

/// Step and least value of a group of codes: value = least + code * step, in one fused operation.
struct CodeScale {
  std::uint16_t step, least;  // f16
};

/// What is visible of a block: positions [first, end).
struct KvTile {
  TileFormat format = TileFormat::kF32;
  std::int64_t first = 0, end = 0;
  std::int64_t key_dim = 0, value_dim = 0;  // channels that are stored
  const void* keys = nullptr;               // [key_dim, kBlockTokens]
  const void* values = nullptr;             // [kBlockTokens, value_dim]
  // Of packed blocks: [key_dim, kBlockTokens / group] and [kBlockTokens, value_groups].
  const CodeScale* key_scales = nullptr;
  const CodeScale* value_scales = nullptr;
  std::int64_t group = kBlockTokens, value_groups = 1;
  // Set when keys are rotated as they are read: row t of [kBlockTokens] points to key_dim / 2
  // cosines and as many sines.
  const float* const* rotations = nullptr;
  float* scratch = nullptr;  // tile_scratch_floats(the larger dimension)
};

/// f32 that a tile needs to work in.
constexpr std::int64_t tile_scratch_floats(std::int64_t dim) {
  return 2 * dim * kBlockTokens + 8 * kBlockTokens;
}

/// The running softmax of some queries of one head, over the tiles so far.
struct TileQueries {
  std::int64_t count = 0;    // of queries
  const float* q = nullptr;  // [count, key_dim], times the scale of attention
  float* max = nullptr;      // [count]
  float* sum = nullptr;      // [count]
  float* acc = nullptr;      // [count, value_dim], to be divided by sum
  float* scores = nullptr;   // [count, scores_stride] of this tile; null: not wanted
  std::int64_t scores_stride = 0;
};

/// Rows of scores of window queries become softmax probabilities, and their columns are summed.
struct MassArgs {
  std::int64_t rows = 0, cols = 0, stride = 0;
  float* scores = nullptr;              // [rows, cols]; become probabilities
  float scale = 1;                      // of the scores
  const std::int64_t* begin = nullptr;  // per row: first visible column
  const std::int64_t* end = nullptr;    // per row: one past the last
};

struct TileKernels {
  void (*attend_tile)(const KvTile& tile, const TileQueries& queries);
  /// The rows [begin, end) of MassArgs become probabilities.
  void (*softmax_rows)(const MassArgs& args, std::int64_t begin, std::int64_t end);
  /// out[c] += the sum over all rows of column c, in order, for columns [begin, end).
  void (*add_columns)(const MassArgs& args, float* out, std::int64_t begin, std::int64_t end);
  /// out[i] += exp(scores[i] - lse).
  void (*add_exponentials)(float* out, const float* scores, float lse, std::int64_t n);
};

namespace avx2 {
extern const TileKernels kTileKernels;
}
namespace avx512 {
extern const TileKernels kTileKernels;
}

/// Those of the instruction set in use.
const TileKernels& tile_kernels();

}  // namespace thimble
