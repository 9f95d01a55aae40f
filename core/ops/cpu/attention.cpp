// Causal grouped-query attention in tiles; no T x T matrix exists at any moment.
// Ref: Dao 2023, "FlashAttention-2", algorithms 1 and 2.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/base/numeric.h"
#include "core/base/threads.h"
#include "core/ops/cpu/attention_tiles.h"
#include "core/ops/cpu/isa_kernels.h"
#include "core/ops/cpu/kernels.h"

namespace thimble::cpu {
namespace {

// One head of one sequence of the batch.
struct Head {
  std::int64_t sequence = 0, head = 0;
};

// A block of queries of one head, and the keys it can see.
struct QueryBlock {
  Head of;
  const std::int32_t* segment_start;        // of the sequence's queries
  std::int64_t q0 = 0, rows = 0;            // queries q0 .. q0 + rows of the sequence
  std::int64_t key_begin = 0, key_end = 0;  // key_begin is a multiple of kKeyStep

  QueryBlock(const AttentionSpec& s, const AttentionArgs& args, Head whose, std::int64_t begin)
      : of(whose),
        segment_start(args.segment_start + whose.sequence * s.q_len),
        q0(begin),
        rows(std::min(TileSizes(s).query_rows, s.q_len - begin)) {
    key_begin = s.kv_len;
    for (std::int64_t i = 0; i < rows; ++i) key_begin = std::min(key_begin, first_key(s, q0 + i));
    key_begin = key_begin / kKeyStep * kKeyStep;
    key_end = q0 + rows + s.kv_len - s.q_len;
  }
  // The first key that a query sees: its segment's first, or the first of its window.
  std::int64_t first_key(const AttentionSpec& s, std::int64_t query) const {
    const std::int64_t index = query + s.kv_len - s.q_len;
    const std::int64_t window_start = s.window > 0 ? index - s.window + 1 : 0;
    return std::max<std::int64_t>(segment_start[query], window_start);
  }
};

// Fills the visibility of each query of the block for the tile that begins at key0.
SoftmaxTile make_tile(const AttentionSpec& s, const QueryBlock& block, std::int64_t key0,
                      const Scratch& w) {
  const std::int64_t cols = round_up(std::min(kKeyCols, block.key_end - key0), kKeyStep);
  for (std::int64_t i = 0; i < block.rows; ++i) {
    const std::int64_t index = block.q0 + i + s.kv_len - s.q_len;
    w.first[i] = static_cast<std::int32_t>(block.first_key(s, block.q0 + i) - key0);
    w.end[i] = static_cast<std::int32_t>(index + 1 - key0);
  }
  return {.rows = block.rows,
          .cols = cols,
          .stride = cols,
          .scores = w.scores,
          .scale = s.scale,
          .softcap = s.softcap,
          .first_key = w.first,
          .end_key = w.end};
}

// Where head `head` of one position lies in a [batch * len, heads * head_dim] matrix.
template <typename Byte>
Byte* head_pointer(Byte* base, const AttentionSpec& s, std::int64_t position, std::int64_t stride,
                   std::int64_t head) {
  return base + (position * stride + head * s.head_dim) * dtype_size(s.dtype);
}

// Some rows of a tile, and the columns that any of them sees.
struct RowGroup {
  std::int64_t row = 0, rows = 0;
  std::int64_t begin = 0, end = 0;
};

template <typename F>
void for_each_group(const TileSizes& sizes, const SoftmaxTile& tile, F&& f) {
  for (std::int64_t row = 0; row < tile.rows; row += sizes.group) {
    RowGroup g{row, std::min(sizes.group, tile.rows - row), tile.cols, 0};
    for (std::int64_t i = row; i < row + g.rows; ++i) {
      g.begin = std::min<std::int64_t>(g.begin, std::max(tile.first_key[i], 0));
      g.end = std::max<std::int64_t>(g.end, std::min<std::int64_t>(tile.end_key[i], tile.cols));
    }
    if (g.begin < g.end) f(g);
  }
}

// scores or dp [rows, cols of the tile] from packed queries and keys, where a row sees a column.
void multiply_keys(const TileSizes& sizes, const char* queries, const char* keys, float* out,
                   const SoftmaxTile& tile) {
  const std::int64_t packed = sizes.d_k * sizes.element, step = sizes.kernel.cols;
  for_each_group(sizes, tile, [&](const RowGroup& g) {
    const std::int64_t col = g.begin / step * step;
    sizes.kernel.multiply({.a = queries + g.row * packed,
                           .b = keys + col * packed,
                           .c = out + g.row * tile.stride + col,
                           .ldc = tile.stride,
                           .rows = sizes.padded_rows(g.rows),
                           .cols = round_up(g.end, step) - col,
                           .k = sizes.d_k});
  });
}

// c += a b, where a is used this once: it is packed only if the kernel needs that. What is missing
// of a micro-tile's rows must not be read.
void multiply_once(const TileSizes& sizes, const PackSource& a, PackedBlocks blocks, char* packed) {
  const MatmulKernel& kernel = sizes.kernel;
  PackSource rest = a;
  blocks.accumulate = true;
  if (kernel.reads_plain_rows) {
    const std::int64_t whole = a.count / kernel.rows * kernel.rows;
    blocks.a = a.from;
    blocks.a_row = a.stride_i;
    blocks.a_k = a.stride_k;
    blocks.rows = whole;
    blocks.k = a.k;
    if (whole > 0) kernel.multiply(blocks);
    rest.from = static_cast<const char*>(a.from) + whole * a.stride_i * sizes.element;
    rest.count -= whole;
    blocks.c += whole * blocks.ldc;
    blocks.a_row = blocks.a_k = 0;
  }
  if (rest.count == 0) return;
  kernel.pack_rows(packed, rest);
  blocks.a = packed;
  blocks.rows = sizes.padded_rows(rest.count);
  blocks.k = sizes.padded_k(a.k);
  kernel.multiply(blocks);
}

// Probabilities of a tile or their gradients, [rows, cols] of it, in the kernel's type.
struct TileValues {
  const SoftmaxTile& tile;
  std::int64_t key0 = 0;
  const void* values = nullptr;
};

// acc [rows, D] += p packed_values, step of keys by step.
void add_values(const AttentionSpec& s, const TileValues& p, const char* packed_values,
                const Scratch& w) {
  const auto& [tile, key0, from] = p;
  const TileSizes sizes(s);
  for_each_group(sizes, tile, [&](const RowGroup& g) {
    for (std::int64_t at = g.begin / kKeyStep * kKeyStep; at < g.end; at += kKeyStep) {
      const std::int64_t begin = std::max(g.begin, at) / sizes.kernel.k_step * sizes.kernel.k_step;
      const std::int64_t keys = std::min(g.end, at + kKeyStep) - begin;
      const PackSource p_rows{
          .from = static_cast<const char*>(from) + (g.row * tile.stride + begin) * sizes.element,
          .dtype = sizes.kernel.packed,
          .stride_i = tile.stride,
          .stride_k = 1,
          .count = g.rows,
          .k = keys};
      const char* values =
          packed_values +
          ((key0 + at) * sizes.d_cols + (begin - at) * sizes.kernel.cols) * sizes.element;
      multiply_once(sizes, p_rows,
                    {.b = values,
                     .c = w.acc + g.row * sizes.d_cols,
                     .ldc = sizes.d_cols,
                     .cols = sizes.d_cols,
                     .b_k = sizes.padded_k(step_keys(s, key0 + at))},
                    w.p_rows);
    }
  });
}

// The rows of a tile that see any of `count` columns from `col` on: [first, second).
std::pair<std::int64_t, std::int64_t> rows_that_see(const SoftmaxTile& tile, std::int64_t col,
                                                    std::int64_t count) {
  std::int64_t begin = tile.rows, end = 0;
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    if (tile.first_key[i] >= col + count || tile.end_key[i] <= col) continue;
    begin = std::min(begin, i);
    end = i + 1;
  }
  return {begin, end};
}

// out [keys, D] += p^T packed [rows, D].
void add_transposed(const AttentionSpec& s, const TileValues& p, const char* packed, float* out,
                    const Scratch& w) {
  const auto& [tile, key0, from] = p;
  const TileSizes sizes(s);
  for (std::int64_t col = 0; col < tile.cols; col += sizes.group) {
    const std::int64_t cols = std::min(sizes.group, tile.cols - col);
    auto [begin, end] = rows_that_see(tile, col, cols);
    if (begin >= end) continue;
    begin = begin / sizes.kernel.k_step * sizes.kernel.k_step;
    const PackSource p_columns{
        .from = static_cast<const char*>(from) + (begin * tile.stride + col) * sizes.element,
        .dtype = sizes.kernel.packed,
        .stride_i = 1,
        .stride_k = tile.stride,
        .count = cols,
        .k = end - begin};
    multiply_once(sizes, p_columns,
                  {.b = packed + begin * sizes.kernel.cols * sizes.element,
                   .c = out + (key0 + col) * sizes.d_cols,
                   .ldc = sizes.d_cols,
                   .cols = sizes.d_cols,
                   .b_k = sizes.padded_k(tile.rows)},
                  w.p_columns);
  }
}

void forward_block(const AttentionSpec& s, const AttentionArgs& args, const QueryBlock& block,
                   const Scratch& w) {
  const TileSizes sizes(s);
  const std::int64_t d = s.head_dim, stride = sizes.d_cols, q_stride = s.heads * d;
  const std::int64_t b = block.of.sequence, h = block.of.head;
  sizes.kernel.pack_rows(w.q_rows, positions(s, {head_pointer(static_cast<const char*>(args.q), s,
                                                              b * s.q_len + block.q0, q_stride, h),
                                                 block.rows, q_stride}));
  std::fill(w.acc, w.acc + sizes.padded_rows(block.rows) * stride, 0.0f);
  std::fill(w.max, w.max + block.rows, -HUGE_VALF);
  std::fill(w.sum, w.sum + block.rows, 0.0f);
  for (std::int64_t key0 = block.key_begin; key0 < block.key_end; key0 += kKeyCols) {
    const SoftmaxTile tile = make_tile(s, block, key0, w);
    multiply_keys(sizes, w.q_rows, w.k_cols + key0 * sizes.d_k * sizes.element, w.scores, tile);
    isa_kernels().softmax_tile(
        tile,
        {.max = w.max, .sum = w.sum, .shrink = w.shrink, .p = w.p, .p_dtype = sizes.kernel.packed});
    if (key0 > block.key_begin) {
      for (std::int64_t i = 0; i < block.rows; ++i) {
        for (std::int64_t j = 0; j < d; ++j) w.acc[i * stride + j] *= w.shrink[i];
      }
    }
    add_values(s, {tile, key0, w.p}, w.v_values, w);
  }
  float* lse = args.lse == nullptr ? nullptr : args.lse + (b * s.heads + h) * s.q_len + block.q0;
  char* out = head_pointer(static_cast<char*>(args.out), s, b * s.q_len + block.q0, q_stride, h);
  for (std::int64_t i = 0; i < block.rows; ++i) {
    const float inverse = 1.0f / w.sum[i];
    for (std::int64_t j = 0; j < d; ++j) w.acc[i * stride + j] *= inverse;
    isa_kernels().cast(out + i * q_stride * dtype_size(s.dtype), s.dtype, w.acc + i * stride,
                       DType::kF32, d);
    if (lse != nullptr) lse[i] = w.max[i] + std::log(w.sum[i]);
  }
}

// Packs keys and values of a head for all of its queries.
void pack_head(const AttentionSpec& s, const AttentionArgs& args, Head kv, bool backward,
               const Scratch& w) {
  const std::int64_t position = kv.sequence * s.kv_len;
  const auto rows = [&](const void* base) {
    return HeadRows{head_pointer(static_cast<const char*>(base), s, position, s.kv_stride, kv.head),
                    s.kv_len, s.kv_stride};
  };
  pack_key_columns(s, rows(args.k), w.k_cols);
  pack_key_values(s, rows(args.v), w.v_values);
  if (!backward) return;
  pack_key_columns(s, rows(args.v), w.v_cols);
  pack_key_values(s, rows(args.k), w.k_values);
}

void backward_block(const AttentionSpec& s, const AttentionGradArgs& args, const QueryBlock& block,
                    const Scratch& w) {
  const TileSizes sizes(s);
  const std::int64_t d = s.head_dim, stride = sizes.d_cols, q_stride = s.heads * d;
  const std::int64_t b = block.of.sequence, h = block.of.head;
  const std::int64_t position = b * s.q_len + block.q0;
  const auto at = [&](const void* base) {
    return head_pointer(static_cast<const char*>(base), s, position, q_stride, h);
  };
  const HeadRows q{at(args.forward.q), block.rows, q_stride},
      dout{at(args.dout), block.rows, q_stride};
  sizes.kernel.pack_rows(w.q_rows, positions(s, q));
  sizes.kernel.pack_rows(w.dout_rows, positions(s, dout));
  sizes.kernel.pack_cols(w.q_values, values(s, q));
  sizes.kernel.pack_cols(w.dout_values, values(s, dout));
  isa_kernels().row_dots({.rows = block.rows,
                          .cols = d,
                          .stride = q_stride,
                          .dtype = s.dtype,
                          .a = at(args.dout),
                          .b = at(args.forward.out),
                          .out = w.delta});
  const float* lse = args.forward.lse + (b * s.heads + h) * s.q_len + block.q0;
  std::fill(w.acc, w.acc + sizes.padded_rows(block.rows) * stride, 0.0f);
  for (std::int64_t key0 = block.key_begin; key0 < block.key_end; key0 += kKeyCols) {
    const SoftmaxTile tile = make_tile(s, block, key0, w);
    const std::int64_t offset = key0 * sizes.d_k * sizes.element;
    multiply_keys(sizes, w.q_rows, w.k_cols + offset, w.scores, tile);
    multiply_keys(sizes, w.dout_rows, w.v_cols + offset, w.dp, tile);
    isa_kernels().softmax_grad_tile(tile, {.lse = lse,
                                           .delta = w.delta,
                                           .dp = w.dp,
                                           .p = w.p,
                                           .ds = w.ds,
                                           .dtype = sizes.kernel.packed});
    add_transposed(s, {tile, key0, w.p}, w.dout_values, w.dv, w);
    add_transposed(s, {tile, key0, w.ds}, w.q_values, w.dk, w);
    add_values(s, {tile, key0, w.ds}, w.k_values, w);
  }
  char* dq = head_pointer(static_cast<char*>(args.dq), s, position, q_stride, h);
  for (std::int64_t i = 0; i < block.rows; ++i) {
    isa_kernels().cast(dq + i * q_stride * dtype_size(s.dtype), s.dtype, w.acc + i * stride,
                       DType::kF32, d);
  }
}

// The cost of one key-value head: reading its keys and values, and two matmuls for every query.
std::int64_t group_cost(const AttentionSpec& s) {
  constexpr std::int64_t kMultipliesPerValue =
      16;  // multiplications in the time of reading a value
  const std::int64_t keys = s.kv_len * s.head_dim, group = s.heads / s.kv_heads;
  return 2 * keys + 2 * keys * group * s.q_len / kMultipliesPerValue;
}

}  // namespace

std::int64_t attention_workspace_bytes(const AttentionSpec& s, bool backward) {
  return round_up(Scratch(s, backward, nullptr).bytes, 4096) * team_threads();
}

void attention(const AttentionSpec& s, const AttentionArgs& args) {
  const Scratch layout(s, false, nullptr);
  const std::int64_t group = s.heads / s.kv_heads, query_rows = TileSizes(s).query_rows;
  parallel_for_each(s.batch * s.kv_heads, group_cost(s), [&](std::int64_t task) {
    const Scratch w(s, false, thread_base(layout, args.workspace));
    const Head kv{task / s.kv_heads, task % s.kv_heads};
    pack_head(s, args, kv, false, w);
    for (std::int64_t h = kv.head * group; h < (kv.head + 1) * group; ++h) {
      for (std::int64_t q0 = 0; q0 < s.q_len; q0 += query_rows) {
        forward_block(s, args, QueryBlock(s, args, {kv.sequence, h}, q0), w);
      }
    }
  });
}

void attention_grad(const AttentionSpec& s, const AttentionGradArgs& args) {
  const Scratch layout(s, true, nullptr);
  const TileSizes sizes(s);
  const std::int64_t group = s.heads / s.kv_heads;
  parallel_for_each(s.batch * s.kv_heads, group_cost(s), [&](std::int64_t task) {
    const Scratch w(s, true, thread_base(layout, args.forward.workspace));
    const Head kv{task / s.kv_heads, task % s.kv_heads};
    pack_head(s, args.forward, kv, true, w);
    const std::int64_t keys = padded_keys(s);
    std::fill(w.dk, w.dk + keys * sizes.d_cols, 0.0f);
    std::fill(w.dv, w.dv + keys * sizes.d_cols, 0.0f);
    for (std::int64_t h = kv.head * group; h < (kv.head + 1) * group; ++h) {
      for (std::int64_t q0 = 0; q0 < s.q_len; q0 += sizes.query_rows) {
        backward_block(s, args, QueryBlock(s, args.forward, {kv.sequence, h}, q0), w);
      }
    }
    for (std::int64_t i = 0; i < s.kv_len; ++i) {
      const std::int64_t position = kv.sequence * s.kv_len + i;
      for (const auto& [to, from] : {std::pair{args.dk, w.dk}, std::pair{args.dv, w.dv}}) {
        isa_kernels().cast(head_pointer(static_cast<char*>(to), s, position, s.kv_stride, kv.head),
                           s.dtype, from + i * sizes.d_cols, DType::kF32, s.head_dim);
      }
    }
  });
}

}  // namespace thimble::cpu
