#include "core/ops/cpu/attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/base/numeric.h"
#include "core/base/threads.h"
#include "core/ops/cpu/isa_kernels.h"
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

// One thread's scratch memory, cut from the workspace; offsets are multiples of 64 bytes.
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

// Copies rows of one head into a dense tile, converting; rows past the end are zero.
void gather(char* dst, DType dst_dtype, const void* src, DType src_dtype, std::int64_t rows,
            std::int64_t padded, std::int64_t d, std::int64_t stride) {
  const auto* in = static_cast<const char*>(src);
  const std::int64_t row_bytes = d * dtype_size(dst_dtype);
  for (std::int64_t r = 0; r < rows; ++r) {
    const char* from = in + r * stride * dtype_size(src_dtype);
    if (src_dtype == dst_dtype) {
      std::memcpy(dst + r * row_bytes, from, static_cast<std::size_t>(row_bytes));
    } else {
      isa_kernels().cast(dst + r * row_bytes, dst_dtype, from, src_dtype, d);
    }
  }
  std::memset(dst + rows * row_bytes, 0, static_cast<std::size_t>((padded - rows) * row_bytes));
}

// A block of queries of one head, and the keys it can see.
struct QueryBlock {
  std::int64_t q0 = 0, rows = 0;            // queries q0 .. q0 + rows of the row of tokens
  std::int64_t key_begin = 0, key_end = 0;  // key_begin is a multiple of kKeyStep

  QueryBlock(const AttentionSpec& s, const std::int32_t* segment_start, std::int64_t begin)
      : q0(begin), rows(std::min(kQueryRows, s.q_len - begin)) {
    key_begin = s.kv_len;
    for (std::int64_t i = 0; i < rows; ++i)
      key_begin = std::min(key_begin, first_key(s, segment_start, q0 + i));
    key_begin = key_begin / kKeyStep * kKeyStep;
    key_end = q0 + rows + s.kv_len - s.q_len;
  }
  static std::int64_t first_key(const AttentionSpec& s, const std::int32_t* segment_start,
                                std::int64_t query) {
    const std::int64_t index = query + s.kv_len - s.q_len;
    const std::int64_t window_start = s.window > 0 ? index - s.window + 1 : 0;
    return std::max<std::int64_t>(segment_start[query], window_start);
  }
};

// Fills the visibility of each query of the block for the tile that begins at key0.
SoftmaxTile make_tile(const AttentionSpec& s, const std::int32_t* segment_start,
                      const QueryBlock& block, std::int64_t key0, const Scratch& w) {
  const std::int64_t cols = round_up(std::min(kKeyCols, block.key_end - key0), kKeyStep);
  for (std::int64_t i = 0; i < block.rows; ++i) {
    const std::int64_t index = block.q0 + i + s.kv_len - s.q_len;
    w.first[i] =
        static_cast<std::int32_t>(QueryBlock::first_key(s, segment_start, block.q0 + i) - key0);
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

// Head `head` of row `batch` of a [batch * len, heads * head_dim] matrix.
template <typename Byte>
Byte* head_pointer(Byte* base, const AttentionSpec& s, std::int64_t position, std::int64_t stride,
                   std::int64_t head) {
  return base + (position * stride + head * s.head_dim) * dtype_size(s.dtype);
}

void forward_block(const AttentionSpec& s, const AttentionArgs& args, const QueryBlock& block,
                   std::int64_t b, std::int64_t h, const Scratch& w) {
  const DType in = tile_dtype(s);
  const std::int64_t d = s.head_dim, q_stride = s.heads * d, in_size = dtype_size(in);
  const std::int32_t* segment_start = args.segment_start + b * s.q_len;
  gather(w.q, in,
         head_pointer(static_cast<const char*>(args.q), s, b * s.q_len + block.q0, q_stride, h),
         s.dtype, block.rows, block.rows, d, q_stride);
  std::fill(w.acc, w.acc + block.rows * d, 0.0f);
  std::fill(w.max, w.max + block.rows, -HUGE_VALF);
  std::fill(w.sum, w.sum + block.rows, 0.0f);
  for (std::int64_t key0 = block.key_begin; key0 < block.key_end; key0 += kKeyCols) {
    const SoftmaxTile tile = make_tile(s, segment_start, block, key0, w);
    const TileMatmuls matmuls(block.rows, tile.cols, d, in);
    run(matmuls.scores, w.q, w.k + key0 * d * in_size, w.scores, w.onednn);
    isa_kernels().softmax_tile(tile, w.max, w.sum, w.shrink, w.p, in);
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

void gather_keys(const AttentionSpec& s, const AttentionArgs& args, std::int64_t b,
                 std::int64_t kv_head, const Scratch& w) {
  const DType in = tile_dtype(s);
  const std::int64_t keys = padded_keys(s);
  const std::int64_t position = b * s.kv_len;
  gather(w.k, in, head_pointer(static_cast<const char*>(args.k), s, position, s.kv_stride, kv_head),
         s.dtype, s.kv_len, keys, s.head_dim, s.kv_stride);
  gather(w.v, in, head_pointer(static_cast<const char*>(args.v), s, position, s.kv_stride, kv_head),
         s.dtype, s.kv_len, keys, s.head_dim, s.kv_stride);
}

void backward_block(const AttentionSpec& s, const AttentionGradArgs& args, const QueryBlock& block,
                    std::int64_t b, std::int64_t h, const Scratch& w) {
  const DType in = tile_dtype(s);
  const std::int64_t d = s.head_dim, q_stride = s.heads * d, in_size = dtype_size(in);
  const std::int32_t* segment_start = args.forward.segment_start + b * s.q_len;
  const std::int64_t position = b * s.q_len + block.q0;
  const auto at = [&](const void* base) {
    return head_pointer(static_cast<const char*>(base), s, position, q_stride, h);
  };
  gather(w.q, in, at(args.forward.q), s.dtype, block.rows, block.rows, d, q_stride);
  gather(w.dout, in, at(args.dout), s.dtype, block.rows, block.rows, d, q_stride);
  isa_kernels().row_dots(w.delta, at(args.dout), at(args.forward.out), s.dtype, block.rows, d,
                         q_stride);
  const float* lse = args.forward.lse + (b * s.heads + h) * s.q_len + block.q0;
  std::fill(w.acc, w.acc + block.rows * d, 0.0f);
  for (std::int64_t key0 = block.key_begin; key0 < block.key_end; key0 += kKeyCols) {
    const SoftmaxTile tile = make_tile(s, segment_start, block, key0, w);
    const TileMatmuls matmuls(block.rows, tile.cols, d, in);
    const std::int64_t offset = key0 * d;
    run(matmuls.scores, w.q, w.k + offset * in_size, w.scores, w.onednn);
    run(matmuls.scores, w.dout, w.v + offset * in_size, w.dp, w.onednn);
    isa_kernels().softmax_grad_tile(tile, lse, w.delta, w.dp, w.p, w.ds, in);
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

// Of one key-value head: reading its keys and values, and two matmuls for every query.
std::int64_t group_cost(const AttentionSpec& s) {
  constexpr std::int64_t kProductsPerValue = 16;  // multiplications in the time of reading a value
  const std::int64_t keys = s.kv_len * s.head_dim, group = s.heads / s.kv_heads;
  return 2 * keys + 2 * keys * group * s.q_len / kProductsPerValue;
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
    const std::int64_t b = task / s.kv_heads, kv_head = task % s.kv_heads;
    gather_keys(s, args, b, kv_head, w);
    for (std::int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      for (std::int64_t q0 = 0; q0 < s.q_len; q0 += kQueryRows) {
        forward_block(s, args, QueryBlock(s, args.segment_start + b * s.q_len, q0), b, h, w);
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
    const std::int64_t b = task / s.kv_heads, kv_head = task % s.kv_heads;
    gather_keys(s, args.forward, b, kv_head, w);
    const std::int64_t keys = padded_keys(s);
    std::fill(w.dk, w.dk + keys * s.head_dim, 0.0f);
    std::fill(w.dv, w.dv + keys * s.head_dim, 0.0f);
    for (std::int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      for (std::int64_t q0 = 0; q0 < s.q_len; q0 += kQueryRows) {
        backward_block(s, args, QueryBlock(s, args.forward.segment_start + b * s.q_len, q0), b, h,
                       w);
      }
    }
    for (std::int64_t i = 0; i < s.kv_len; ++i) {
      const std::int64_t position = b * s.kv_len + i;
      isa_kernels().cast(
          head_pointer(static_cast<char*>(args.dk), s, position, s.kv_stride, kv_head), s.dtype,
          w.dk + i * s.head_dim, DType::kF32, s.head_dim);
      isa_kernels().cast(
          head_pointer(static_cast<char*>(args.dv), s, position, s.kv_stride, kv_head), s.dtype,
          w.dv + i * s.head_dim, DType::kF32, s.head_dim);
    }
  });
}

}  // namespace thimble::cpu
