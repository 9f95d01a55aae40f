// The tiles of attention: their sizes, the scratch memory of a thread, and how a head's queries,
// keys and values are packed for the matmuls of tiles.
#pragma once

#include <algorithm>
#include <cstring>

#include "core/base/numeric.h"
#include "core/base/threads.h"
#include "core/ops/cpu/isa_kernels.h"
#include "core/ops/matmul_path.h"

namespace thimble::cpu {

inline constexpr std::int64_t kQueryRows = 128;  // queries of a tile, at most
inline constexpr std::int64_t kKeyCols = 512;    // keys of a tile, at most
// Rows of a tile that are multiplied together, rounded up to the micro-kernel's. Keys that none of
// them sees are left out: with few rows little is wasted beside the diagonal, with many each panel
// of keys is read less often.
inline constexpr std::int64_t kGroupRows = 24;
// Tile widths are multiples of this; so many keys at a time are the k of a product with values.
inline constexpr std::int64_t kKeyStep = 128;

// The kernel that multiplies tiles. f32 tensors keep their precision whatever the path.
inline const MatmulKernel& tile_kernel(const AttentionSpec& s) {
  const MatmulKernel* kernel =
      s.dtype == DType::kBF16 ? matmul_kernel(matmul_path()) : nullptr;  // none: the library's path
  return kernel != nullptr ? *kernel : *matmul_kernel(MatmulPath::kF32);
}

inline std::int64_t padded_keys(const AttentionSpec& s) {
  return round_up(std::max<std::int64_t>(s.kv_len, 1), kKeyStep);
}

// The sizes of packed operands; D is the head dimension.
struct TileSizes {
  const MatmulKernel& kernel;
  std::int64_t element;
  std::int64_t query_rows;  // of a tile: a multiple of the micro-kernel's rows
  std::int64_t rows;        // the same, or the queries that there are, padded
  std::int64_t d_cols;      // D as columns of a product
  std::int64_t d_k;         // D as its k
  std::int64_t key_cols;    // of a tile
  std::int64_t group;       // rows of a tile that are multiplied together

  explicit TileSizes(const AttentionSpec& s)
      : kernel(tile_kernel(s)),
        element(dtype_size(kernel.packed)),
        query_rows(kQueryRows / kernel.rows * kernel.rows),
        rows(std::min(query_rows, round_up(s.q_len, kernel.rows))),
        d_cols(round_up(s.head_dim, kernel.cols)),
        d_k(round_up(s.head_dim, kernel.k_step)),
        key_cols(std::min(kKeyCols, padded_keys(s))),
        group(round_up(kGroupRows, kernel.rows)) {}
  std::int64_t padded_k(std::int64_t k) const { return round_up(k, kernel.k_step); }
  std::int64_t padded_rows(std::int64_t count) const { return round_up(count, kernel.rows); }
};

// The scratch memory of one thread, cut from the workspace; offsets are multiples of 64 bytes.
// Packed operands are named after what they hold: `k_cols` has keys as columns and D as k.
struct Scratch {
  char *k_cols, *v_cols, *k_values, *v_values;        // of a head, for all of its queries
  char *q_rows, *dout_rows, *q_values, *dout_values;  // of a block of queries
  char *p_rows, *p_columns;                           // of a tile
  float *scores, *dp, *acc, *dk, *dv, *max, *sum, *shrink, *delta;
  void *p, *ds;
  std::int32_t *first, *end;
  std::int64_t bytes = 0;

  Scratch(const AttentionSpec& s, bool backward, char* base) {
    const TileSizes sizes(s);
    const std::int64_t keys = padded_keys(s), in = sizes.element, rows = sizes.rows;
    const std::int64_t tile = rows * sizes.key_cols;
    const std::int64_t query_k = sizes.padded_k(rows);
    const auto cut = [&](auto*& pointer, std::int64_t size) {
      pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(base + bytes);
      bytes += round_up(size, 64);
    };
    cut(k_cols, keys * sizes.d_k * in);
    cut(v_values, keys * sizes.d_cols * in);
    cut(q_rows, rows * sizes.d_k * in);
    cut(scores, tile * 4);
    cut(p_rows, sizes.group * kKeyStep * in);
    cut(acc, rows * sizes.d_cols * 4);
    for (float** each : {&max, &sum, &shrink, &delta}) cut(*each, rows * 4);
    for (std::int32_t** each : {&first, &end}) cut(*each, rows * 4);
    // Probabilities take the place of scores where they have their type.
    p = scores;
    if (in != 4) cut(p, tile * in);
    ds = nullptr;
    if (!backward) return;
    cut(v_cols, keys * sizes.d_k * in);
    cut(k_values, keys * sizes.d_cols * in);
    cut(dout_rows, rows * sizes.d_k * in);
    cut(q_values, query_k * sizes.d_cols * in);
    cut(dout_values, query_k * sizes.d_cols * in);
    cut(p_columns, sizes.group * query_k * in);
    cut(dp, tile * 4);
    ds = dp;
    if (in != 4) cut(ds, tile * in);
    // A group may reach beyond the last key.
    cut(dk, (keys + sizes.group) * sizes.d_cols * 4);
    cut(dv, (keys + sizes.group) * sizes.d_cols * 4);
  }
};

inline char* thread_base(const Scratch& layout, void* workspace) {
  return static_cast<char*>(workspace) + team_index() * round_up(layout.bytes, 4096);
}

// Rows of one head in a matrix of several: `rows` of D elements, `stride` elements apart.
struct HeadRows {
  const void* from = nullptr;
  std::int64_t rows = 0, stride = 0;
};

// Positions as rows or columns, D as k.
inline PackSource positions(const AttentionSpec& s, const HeadRows& head) {
  return {.from = head.from,
          .dtype = s.dtype,
          .stride_i = head.stride,
          .stride_k = 1,
          .count = head.rows,
          .k = s.head_dim};
}

// D as columns, positions as k.
inline PackSource values(const AttentionSpec& s, const HeadRows& head) {
  return {.from = head.from,
          .dtype = s.dtype,
          .stride_i = 1,
          .stride_k = head.stride,
          .count = s.head_dim,
          .k = head.rows};
}

// Keys that belong to the step of kKeyStep which begins at `key`.
inline std::int64_t step_keys(const AttentionSpec& s, std::int64_t key) {
  return std::min(kKeyStep, s.kv_len - key);
}

// Packs the keys or values of a head as columns; those past the end are zero.
inline void pack_key_columns(const AttentionSpec& s, const HeadRows& head, char* packed) {
  const TileSizes sizes(s);
  sizes.kernel.pack_cols(packed, positions(s, head));
  const std::int64_t row = sizes.d_k * sizes.element;
  const std::int64_t done = round_up(head.rows, sizes.kernel.cols);
  if (done < padded_keys(s)) {
    std::memset(packed + done * row, 0, static_cast<std::size_t>((padded_keys(s) - done) * row));
  }
}

// Packs the keys or values of a head as the k of products, each step of keys by itself.
inline void pack_key_values(const AttentionSpec& s, const HeadRows& head, char* packed) {
  const TileSizes sizes(s);
  for (std::int64_t key = 0; key < head.rows; key += kKeyStep) {
    const void* from =
        static_cast<const char*>(head.from) + key * head.stride * dtype_size(s.dtype);
    sizes.kernel.pack_cols(packed + key * sizes.d_cols * sizes.element,
                           values(s, {from, step_keys(s, key), head.stride}));
  }
}

}  // namespace thimble::cpu
