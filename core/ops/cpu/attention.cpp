// Causal grouped-query attention in tiles; no T x T matrix exists at any moment.
// Ref: Dao 2023, "FlashAttention-2", algorithms 1 and 2.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/base/numeric.h"
#include "core/base/threads.h"
#include "core/ops/cpu/isa_kernels.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/onednn_matmul.h"

namespace thimble::cpu {
namespace {

constexpr std::int64_t kQueryRows = 128;  // queries of a tile
constexpr std::int64_t kKeyCols = 512;    // keys of a tile, at most
constexpr std::int64_t kKeyStep =
    128;  // tile widths are multiples of this, so that few shapes exist

// Tiles are computed in the tensor's own type where the CPU multiplies it, else in f32.
DType tile_dtype(const AttentionSpec& s) {
  return s.dtype == DType::kBF16 && has_native_bf16() ? DType::kBF16 : DType::kF32;
}

std::int64_t padded_keys(const AttentionSpec& s) {
  return round_up(std::max<std::int64_t>(s.kv_len, 1), kKeyStep);
}

MatmulSpec tile_spec(std::int64_t m, std::int64_t n, std::int64_t k, DType in) {
  return {.m = m, .n = n, .k = k, .a = in, .b = in, .c = DType::kF32, .lda = k, .ldb = n, .ldc = n};
}

// The five matmuls of a tile [rows, cols] with head dimension D.
struct TileMatmuls {
  MatmulSpec scores, output, dv, dk, dq;

  TileMatmuls(std::int64_t rows, std::int64_t cols, std::int64_t d, DType in) {
    scores = tile_spec(rows, cols, d, in);  // Q K^T, and dO V^T
    scores.trans_b = true;
    scores.ldb = d;
    output = tile_spec(rows, d, cols, in);  // P V
    output.accumulate = true;
    dv = tile_spec(cols, d, rows, in);  // P^T dO, and dS^T Q
    dv.trans_a = true;
    dv.lda = cols;
    dv.accumulate = true;
    dk = dv;
    dq = output;  // dS K
  }
};

std::int64_t tile_workspace(const AttentionSpec& s, bool backward) {
  std::int64_t most = 0;
  for (const std::int64_t rows : {std::min(kQueryRows, s.q_len), s.q_len % kQueryRows}) {
    if (rows == 0) continue;
    for (std::int64_t cols = kKeyStep; cols <= std::min(kKeyCols, padded_keys(s));
         cols += kKeyStep) {
      const TileMatmuls tile(rows, cols, s.head_dim, tile_dtype(s));
      most = std::max(most, onednn::workspace_bytes(tile.scores));
      most = std::max(most, onednn::workspace_bytes(tile.output));
      if (backward) most = std::max(most, onednn::workspace_bytes(tile.dv));
    }
  }
  return most;
}

// The scratch memory of one thread, cut from the workspace; offsets are multiples of 64 bytes.
struct Scratch {
  char *q, *k, *v, *p, *ds, *dout, *onednn;
  float *scores, *dp, *acc, *dk, *dv, *max, *sum, *shrink, *delta;
  std::int32_t *first, *end;
  std::int64_t bytes = 0;

  Scratch(const AttentionSpec& s, bool backward, std::int64_t onednn_bytes, char* base) {
    const std::int64_t in = dtype_size(tile_dtype(s)), d = s.head_dim, keys = padded_keys(s);
    const std::int64_t tile = kQueryRows * std::min(kKeyCols, keys);
    const auto cut = [&](auto*& pointer, std::int64_t size) {
      pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(base + bytes);
      bytes += round_up(size, 64);
    };
    cut(q, kQueryRows * d * in);
    cut(k, keys * d * in);
    cut(v, keys * d * in);
    cut(scores, tile * 4);
    cut(p, tile * in);
    cut(acc, kQueryRows * d * 4);
    cut(max, kQueryRows * 4);
    cut(sum, kQueryRows * 4);
    cut(shrink, kQueryRows * 4);
    cut(first, kQueryRows * 4);
    cut(end, kQueryRows * 4);
    cut(ds, backward ? tile * in : 0);
    cut(dp, backward ? tile * 4 : 0);
    cut(dout, backward ? kQueryRows * d * in : 0);
    cut(dk, backward ? keys * d * 4 : 0);
    cut(dv, backward ? keys * d * 4 : 0);
    cut(delta, backward ? kQueryRows * 4 : 0);
    cut(onednn, onednn_bytes);
  }
};

char* thread_base(const Scratch& layout, void* workspace) {
  return static_cast<char*>(workspace) + team_index() * round_up(layout.bytes, 4096);
}

// Rows of one head in a matrix of several: `rows` of d elements, `stride` elements apart.
struct HeadRows {
  const void* from = nullptr;
  std::int64_t rows = 0, stride = 0;
};

// Copies rows of one head into a dense tile of `padded` rows of the tile's dtype; rows past the end
// are zero.
void gather(const AttentionSpec& s, const HeadRows& head, char* dst, std::int64_t padded) {
  const DType dst_dtype = tile_dtype(s);
  const auto* in = static_cast<const char*>(head.from);
  const std::int64_t row_bytes = s.head_dim * dtype_size(dst_dtype);
  for (std::int64_t r = 0; r < head.rows; ++r) {
    const char* from = in + r * head.stride * dtype_size(s.dtype);
    if (s.dtype == dst_dtype) {
      std::memcpy(dst + r * row_bytes, from, static_cast<std::size_t>(row_bytes));
    } else {
      isa_kernels().cast(dst + r * row_bytes, dst_dtype, from, s.dtype, s.head_dim);
    }
  }
  std::memset(dst + head.rows * row_bytes, 0,
              static_cast<std::size_t>((padded - head.rows) * row_bytes));
}

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
        rows(std::min(kQueryRows, s.q_len - begin)) {
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
          .first_key = w.first,
          .end_key = w.end};
}

void run(const MatmulSpec& spec, const void* a, const void* b, void* c, void* workspace) {
  onednn::matmul(spec, {.a = a, .b = b, .c = c, .workspace = workspace});
}

// Where head `head` of one position lies in a [batch * len, heads * head_dim] matrix.
template <typename Byte>
Byte* head_pointer(Byte* base, const AttentionSpec& s, std::int64_t position, std::int64_t stride,
                   std::int64_t head) {
  return base + (position * stride + head * s.head_dim) * dtype_size(s.dtype);
}

void forward_block(const AttentionSpec& s, const AttentionArgs& args, const QueryBlock& block,
                   const Scratch& w) {
  const DType in = tile_dtype(s);
  const std::int64_t d = s.head_dim, q_stride = s.heads * d, in_size = dtype_size(in);
  const std::int64_t b = block.of.sequence, h = block.of.head;
  gather(s,
         {head_pointer(static_cast<const char*>(args.q), s, b * s.q_len + block.q0, q_stride, h),
          block.rows, q_stride},
         w.q, block.rows);
  std::fill(w.acc, w.acc + block.rows * d, 0.0f);
  std::fill(w.max, w.max + block.rows, -HUGE_VALF);
  std::fill(w.sum, w.sum + block.rows, 0.0f);
  for (std::int64_t key0 = block.key_begin; key0 < block.key_end; key0 += kKeyCols) {
    const SoftmaxTile tile = make_tile(s, block, key0, w);
    const TileMatmuls matmuls(block.rows, tile.cols, d, in);
    run(matmuls.scores, w.q, w.k + key0 * d * in_size, w.scores, w.onednn);
    isa_kernels().softmax_tile(
        tile, {.max = w.max, .sum = w.sum, .shrink = w.shrink, .p = w.p, .p_dtype = in});
    if (key0 > block.key_begin) {
      for (std::int64_t i = 0; i < block.rows; ++i) {
        for (std::int64_t j = 0; j < d; ++j) w.acc[i * d + j] *= w.shrink[i];
      }
    }
    run(matmuls.output, w.p, w.v + key0 * d * in_size, w.acc, w.onednn);
  }
  float* lse = args.lse == nullptr ? nullptr : args.lse + (b * s.heads + h) * s.q_len + block.q0;
  char* out = head_pointer(static_cast<char*>(args.out), s, b * s.q_len + block.q0, q_stride, h);
  for (std::int64_t i = 0; i < block.rows; ++i) {
    const float inverse = 1.0f / w.sum[i];
    for (std::int64_t j = 0; j < d; ++j) w.acc[i * d + j] *= inverse;
    isa_kernels().cast(out + i * q_stride * dtype_size(s.dtype), s.dtype, w.acc + i * d,
                       DType::kF32, d);
    if (lse != nullptr) lse[i] = w.max[i] + std::log(w.sum[i]);
  }
}

void gather_keys(const AttentionSpec& s, const AttentionArgs& args, Head kv, const Scratch& w) {
  const std::int64_t position = kv.sequence * s.kv_len;
  const auto rows = [&](const void* base) {
    return HeadRows{head_pointer(static_cast<const char*>(base), s, position, s.kv_stride, kv.head),
                    s.kv_len, s.kv_stride};
  };
  gather(s, rows(args.k), w.k, padded_keys(s));
  gather(s, rows(args.v), w.v, padded_keys(s));
}

void backward_block(const AttentionSpec& s, const AttentionGradArgs& args, const QueryBlock& block,
                    const Scratch& w) {
  const DType in = tile_dtype(s);
  const std::int64_t d = s.head_dim, q_stride = s.heads * d, in_size = dtype_size(in);
  const std::int64_t b = block.of.sequence, h = block.of.head;
  const std::int64_t position = b * s.q_len + block.q0;
  const auto at = [&](const void* base) {
    return head_pointer(static_cast<const char*>(base), s, position, q_stride, h);
  };
  gather(s, {at(args.forward.q), block.rows, q_stride}, w.q, block.rows);
  gather(s, {at(args.dout), block.rows, q_stride}, w.dout, block.rows);
  isa_kernels().row_dots({.rows = block.rows,
                          .cols = d,
                          .stride = q_stride,
                          .dtype = s.dtype,
                          .a = at(args.dout),
                          .b = at(args.forward.out),
                          .out = w.delta});
  const float* lse = args.forward.lse + (b * s.heads + h) * s.q_len + block.q0;
  std::fill(w.acc, w.acc + block.rows * d, 0.0f);
  for (std::int64_t key0 = block.key_begin; key0 < block.key_end; key0 += kKeyCols) {
    const SoftmaxTile tile = make_tile(s, block, key0, w);
    const TileMatmuls matmuls(block.rows, tile.cols, d, in);
    const std::int64_t offset = key0 * d;
    run(matmuls.scores, w.q, w.k + offset * in_size, w.scores, w.onednn);
    run(matmuls.scores, w.dout, w.v + offset * in_size, w.dp, w.onednn);
    isa_kernels().softmax_grad_tile(
        tile, {.lse = lse, .delta = w.delta, .dp = w.dp, .p = w.p, .ds = w.ds, .dtype = in});
    run(matmuls.dv, w.p, w.dout, w.dv + offset, w.onednn);
    run(matmuls.dk, w.ds, w.q, w.dk + offset, w.onednn);
    run(matmuls.dq, w.ds, w.k + offset * in_size, w.acc, w.onednn);
  }
  char* dq = head_pointer(static_cast<char*>(args.dq), s, position, q_stride, h);
  for (std::int64_t i = 0; i < block.rows; ++i) {
    isa_kernels().cast(dq + i * q_stride * dtype_size(s.dtype), s.dtype, w.acc + i * d, DType::kF32,
                       d);
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
  return round_up(Scratch(s, backward, tile_workspace(s, backward), nullptr).bytes, 4096) *
         team_threads();
}

void attention(const AttentionSpec& s, const AttentionArgs& args) {
  const std::int64_t onednn_bytes = tile_workspace(s, false);
  const Scratch layout(s, false, onednn_bytes, nullptr);
  const std::int64_t group = s.heads / s.kv_heads;
  parallel_for_each(s.batch * s.kv_heads, group_cost(s), [&](std::int64_t task) {
    const Scratch w(s, false, onednn_bytes, thread_base(layout, args.workspace));
    const Head kv{task / s.kv_heads, task % s.kv_heads};
    gather_keys(s, args, kv, w);
    for (std::int64_t h = kv.head * group; h < (kv.head + 1) * group; ++h) {
      for (std::int64_t q0 = 0; q0 < s.q_len; q0 += kQueryRows) {
        forward_block(s, args, QueryBlock(s, args, {kv.sequence, h}, q0), w);
      }
    }
  });
}

void attention_grad(const AttentionSpec& s, const AttentionGradArgs& args) {
  const std::int64_t onednn_bytes = tile_workspace(s, true);
  const Scratch layout(s, true, onednn_bytes, nullptr);
  const std::int64_t group = s.heads / s.kv_heads;
  parallel_for_each(s.batch * s.kv_heads, group_cost(s), [&](std::int64_t task) {
    const Scratch w(s, true, onednn_bytes, thread_base(layout, args.forward.workspace));
    const Head kv{task / s.kv_heads, task % s.kv_heads};
    gather_keys(s, args.forward, kv, w);
    const std::int64_t keys = padded_keys(s);
    std::fill(w.dk, w.dk + keys * s.head_dim, 0.0f);
    std::fill(w.dv, w.dv + keys * s.head_dim, 0.0f);
    for (std::int64_t h = kv.head * group; h < (kv.head + 1) * group; ++h) {
      for (std::int64_t q0 = 0; q0 < s.q_len; q0 += kQueryRows) {
        backward_block(s, args, QueryBlock(s, args.forward, {kv.sequence, h}, q0), w);
      }
    }
    for (std::int64_t i = 0; i < s.kv_len; ++i) {
      const std::int64_t position = kv.sequence * s.kv_len + i;
      isa_kernels().cast(
          head_pointer(static_cast<char*>(args.dk), s, position, s.kv_stride, kv.head), s.dtype,
          w.dk + i * s.head_dim, DType::kF32, s.head_dim);
      isa_kernels().cast(
          head_pointer(static_cast<char*>(args.dv), s, position, s.kv_stride, kv.head), s.dtype,
          w.dv + i * s.head_dim, DType::kF32, s.head_dim);
    }
  });
}

}  // namespace thimble::cpu
