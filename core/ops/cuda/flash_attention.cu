// Attention on tensor cores: bf16, heads of 64 or 128 values. A warp has 16 queries (or, for dk and
// dv, 16 keys), a block four warps that share tiles of the other side. dq and dk, dv are made by
// kernels of their own, so that no sum depends on the order of blocks. Ref: Dao 2023,
// "FlashAttention-2", algorithms 1 and 2.
#include "core/ops/cuda/attention.cuh"
#include "core/ops/cuda/tensor_core.cuh"

namespace thimble::cuda {
namespace {

constexpr int kFlashThreads = 128, kWarpRows = 16, kBlockRows = 64;
constexpr float kLog2E = 1.44269504088896f, kLn2 = 0.693147180559945f;

// Rows of the other side that a block looks at together; what it shares stays below 48 KiB.
template <int D>
inline constexpr int kTileRows = D <= 64 ? 64 : 32;

// Which 64 rows of which head. The last rows, which see most, come first.
TH_DEVICE Place place_of_tile(std::int64_t heads, std::int64_t rows) {
  const std::int64_t tiles = (rows + kBlockRows - 1) / kBlockRows, block = blockIdx.x;
  return {block / (heads * tiles), block / tiles % heads, (tiles - 1 - block % tiles) * kBlockRows};
}

// The queries of a thread's warp, 16 from warp_row on, of which the thread has rows row and row +
// 8; and the keys [first, end) that its block looks at.
struct Queries {
  Place at;
  std::int64_t kv_head, warp_row, row, offset, stride, left, first, end;
  Sight sights[2];
};
template <int D>
TH_DEVICE Queries queries_of_thread(const AttentionSpec& s, const std::int32_t* segment_start) {
  const Lane lane = lane_of_thread();
  Queries q{};
  q.at = place_of_tile(s.heads, s.q_len);
  q.kv_head = q.at.head / (s.heads / s.kv_heads);
  q.warp_row = q.at.row + lane.warp * kWarpRows;
  q.row = q.warp_row + lane.group;
  q.offset = query_offset(s, q.at.batch, q.warp_row, q.at.head);
  q.stride = s.heads * D;
  q.left = s.q_len - q.warp_row;
  const std::int64_t last = q.at.row + kBlockRows < s.q_len ? q.at.row + kBlockRows : s.q_len;
  q.end = last + s.kv_len - s.q_len;
  for (int r = 0; r < 2; ++r) q.sights[r] = sight_of(s, segment_start, q.at.batch, q.row + 8 * r);
  q.first = first_of_block<kFlashThreads>(q.sights[0], q.sights[1], q.end);
  return q;
}

// scores[n][c] of 16 rows by kRows others: rows times the tile.
template <int D, int kRows>
TH_DEVICE void multiply_tile(float (&scores)[kRows / 8][4], const std::uint32_t (&rows)[D / 16][4],
                             const BF16* tile) {
  TH_UNROLL
  for (int n = 0; n < kRows / 8; ++n) {
    TH_UNROLL
    for (int c = 0; c < 4; ++c) scores[n][c] = 0.0f;
    TH_UNROLL
    for (int k = 0; k < D / 16; ++k) {
      std::uint32_t b[2];
      load_b(b, tile, D + kTilePad, 8 * n, 16 * k);
      gpu::mma_bf16(scores[n], rows[k], b);
    }
  }
}

// sums[n][c] of 16 rows by D values += weights times rows; `transposed`: those rows [D][kRows].
template <int D, int kRows>
TH_DEVICE void add_weighted(float (&sums)[D / 8][4], const float (&weights)[kRows / 8][4],
                            const BF16* transposed) {
  TH_UNROLL
  for (int k = 0; k < kRows / 16; ++k) {
    const std::uint32_t a[4] = {gpu::pack_bf16(weights[2 * k][0], weights[2 * k][1]),
                                gpu::pack_bf16(weights[2 * k][2], weights[2 * k][3]),
                                gpu::pack_bf16(weights[2 * k + 1][0], weights[2 * k + 1][1]),
                                gpu::pack_bf16(weights[2 * k + 1][2], weights[2 * k + 1][3])};
    TH_UNROLL
    for (int n = 0; n < D / 8; ++n) {
      std::uint32_t b[2];
      load_b(b, transposed, kRows + kTilePad, 8 * n, 16 * k);
      gpu::mma_bf16(sums[n], a, b);
    }
  }
}

// The running softmax of a thread's two rows: their maxima and sums, in base 2.
struct RowSoftmax {
  float top[2] = {-HUGE_VALF, -HUGE_VALF}, sum[2] = {};
};

// p <- the scores in base 2, -infinity where a query does not see a key; most[row] <- the largest.
template <int kKeys>
TH_DEVICE void mask_scores(float (&p)[kKeys / 8][4], float (&most)[2], const Queries& q,
                           std::int64_t first, float scale) {
  const Lane lane = lane_of_thread();
  TH_UNROLL
  for (int n = 0; n < kKeys / 8; ++n) {
    TH_UNROLL
    for (int c = 0; c < 4; ++c) {
      p[n][c] = sees(q.sights[c / 2], first + 8 * n + 2 * lane.member + c % 2) ? p[n][c] * scale
                                                                               : -HUGE_VALF;
      most[c / 2] = p[n][c] > most[c / 2] ? p[n][c] : most[c / 2];
    }
  }
}

// p <- the exponentials of masked scores whose maxima are `most`; updates the running softmax.
// shrink[row] <- the factor by which what was summed before shrinks.
template <int kKeys>
TH_DEVICE void exponentiate(float (&p)[kKeys / 8][4], float (&most)[2], float (&shrink)[2],
                            RowSoftmax& rows) {
  float base[2];
  TH_UNROLL
  for (int r = 0; r < 2; ++r) {
    most[r] = quad_max(most[r]);
    base[r] = most[r] == -HUGE_VALF ? 0.0f : most[r];  // nothing seen yet
    shrink[r] = gpu::exp2_fast(rows.top[r] - base[r]);
    rows.top[r] = most[r];
    rows.sum[r] *= shrink[r];
  }
  TH_UNROLL
  for (int n = 0; n < kKeys / 8; ++n) {
    TH_UNROLL
    for (int c = 0; c < 4; ++c) {
      p[n][c] = gpu::exp2_fast(p[n][c] - base[c / 2]);
      rows.sum[c / 2] += p[n][c];
    }
  }
}

template <int D>
TH_KERNEL void flash_forward_kernel(AttentionSpec s, AttentionArgs a) {
  constexpr int kKeys = 64;
  TH_SHARED(Piece<16>, key_pieces, tile_pieces(kKeys, D));
  TH_SHARED(Piece<16>, value_pieces, tile_pieces(D, kKeys));
  auto* keys = reinterpret_cast<BF16*>(key_pieces);
  auto* values = reinterpret_cast<BF16*>(value_pieces);
  const Lane lane = lane_of_thread();
  const Queries q = queries_of_thread<D>(s, a.segment_start);
  std::uint32_t query[D / 16][4];
  load_a<D>(query, static_cast<const BF16*>(a.q) + q.offset, q.stride, q.left);
  const float scale = s.scale * kLog2E;
  RowSoftmax rows;
  float out[D / 8][4] = {};
  for (std::int64_t first = q.first; first < q.end; first += kKeys) {
    gpu::block_barrier();
    const std::int64_t offset = key_offset(s, q.at.batch, first, q.kv_head);
    load_tile<D, kKeys>(keys, nullptr, static_cast<const BF16*>(a.k) + offset, s.kv_stride,
                        q.end - first);
    load_tile<D, kKeys>(nullptr, values, static_cast<const BF16*>(a.v) + offset, s.kv_stride,
                        q.end - first);
    gpu::block_barrier();
    float p[kKeys / 8][4];
    multiply_tile<D, kKeys>(p, query, keys);
    float most[2] = {rows.top[0], rows.top[1]}, shrink[2];
    mask_scores<kKeys>(p, most, q, first, scale);
    exponentiate<kKeys>(p, most, shrink, rows);
    TH_UNROLL
    for (int n = 0; n < D / 8; ++n) {
      TH_UNROLL
      for (int c = 0; c < 4; ++c) out[n][c] *= shrink[c / 2];
    }
    add_weighted<D, kKeys>(out, p, values);
  }
  TH_UNROLL
  for (int r = 0; r < 2; ++r) {
    const float sum = quad_sum(rows.sum[r]);
    const std::int64_t i = q.row + 8 * r;
    if (i >= s.q_len) continue;
    const float factor = 1.0f / sum;
    store_row<D>(static_cast<BF16*>(a.out) + query_offset(s, q.at.batch, i, q.at.head), out, r,
                 factor);
    if (lane.member == 0 && a.lse != nullptr)
      a.lse[(q.at.batch * s.heads + q.at.head) * s.q_len + i] =
          (rows.top[r] + std::log2(sum)) * kLn2;
  }
}

// delta = sum over the head of dout * out; a warp has a query.
template <int D>
TH_KERNEL void flash_delta_kernel(AttentionSpec s, AttentionGradArgs g, float* delta) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * (kFlashThreads / gpu::kWarp) +
                             threadIdx.x / gpu::kWarp;
  const std::int64_t rows = s.batch * s.heads * s.q_len;
  const std::int64_t known = index < rows ? index : rows - 1;
  const std::int64_t i = known % s.q_len, head = known / s.q_len % s.heads,
                     b = known / (s.q_len * s.heads);
  const std::int64_t offset = query_offset(s, b, i, head);
  float sum = 0;
  for (int d = static_cast<int>(threadIdx.x) % gpu::kWarp; d < D; d += gpu::kWarp)
    sum += to_float(static_cast<const BF16*>(g.dout)[offset + d]) *
           to_float(static_cast<const BF16*>(g.forward.out)[offset + d]);
  sum = gpu::warp_sum(sum);
  if (index < rows && threadIdx.x % gpu::kWarp == 0) delta[index] = sum;
}

template <int D>
TH_KERNEL void flash_grad_query_kernel(AttentionSpec s, AttentionGradArgs g, const float* delta) {
  constexpr int kKeys = kTileRows<D>;
  TH_SHARED(Piece<16>, key_pieces, tile_pieces(kKeys, D));
  TH_SHARED(Piece<16>, transposed_pieces, tile_pieces(D, kKeys));
  TH_SHARED(Piece<16>, value_pieces, tile_pieces(kKeys, D));
  auto* keys = reinterpret_cast<BF16*>(key_pieces);
  auto* keys_transposed = reinterpret_cast<BF16*>(transposed_pieces);
  auto* values = reinterpret_cast<BF16*>(value_pieces);
  const AttentionArgs& a = g.forward;
  const Lane lane = lane_of_thread();
  const Queries q = queries_of_thread<D>(s, a.segment_start);
  std::uint32_t query[D / 16][4], dout[D / 16][4];
  load_a<D>(query, static_cast<const BF16*>(a.q) + q.offset, q.stride, q.left);
  load_a<D>(dout, static_cast<const BF16*>(g.dout) + q.offset, q.stride, q.left);
  float lse[2], of_row[2];
  TH_UNROLL
  for (int r = 0; r < 2; ++r) {
    const std::int64_t i = q.row + 8 * r, index = (q.at.batch * s.heads + q.at.head) * s.q_len + i;
    lse[r] = i < s.q_len ? a.lse[index] * kLog2E : 0.0f;
    of_row[r] = i < s.q_len ? delta[index] : 0.0f;
  }
  const float scale = s.scale * kLog2E;
  float dq[D / 8][4] = {};
  for (std::int64_t first = q.first; first < q.end; first += kKeys) {
    gpu::block_barrier();
    const std::int64_t begin = key_offset(s, q.at.batch, first, q.kv_head);
    load_tile<D, kKeys>(keys, keys_transposed, static_cast<const BF16*>(a.k) + begin, s.kv_stride,
                        q.end - first);
    load_tile<D, kKeys>(values, nullptr, static_cast<const BF16*>(a.v) + begin, s.kv_stride,
                        q.end - first);
    gpu::block_barrier();
    float p[kKeys / 8][4], dp[kKeys / 8][4];
    multiply_tile<D, kKeys>(p, query, keys);
    multiply_tile<D, kKeys>(dp, dout, values);
    TH_UNROLL
    for (int n = 0; n < kKeys / 8; ++n) {
      TH_UNROLL
      for (int c = 0; c < 4; ++c) {
        const bool seen = sees(q.sights[c / 2], first + 8 * n + 2 * lane.member + c % 2);
        const float weight = seen ? gpu::exp2_fast(p[n][c] * scale - lse[c / 2]) : 0.0f;
        p[n][c] = weight * (dp[n][c] - of_row[c / 2]) * s.scale;
      }
    }
    add_weighted<D, kKeys>(dq, p, keys_transposed);
  }
  TH_UNROLL
  for (int r = 0; r < 2; ++r) {
    const std::int64_t i = q.row + 8 * r;
    if (i < s.q_len)
      store_row<D>(static_cast<BF16*>(g.dq) + query_offset(s, q.at.batch, i, q.at.head), dq, r,
                   1.0f);
  }
}

// The 64 keys of a block and the queries [begin, end) that see any of them; of the keys, the thread
// has rows own[0] and own[1] of the 16 of its warp, which begin at warp_row.
struct Keys {
  Place at;
  std::int64_t warp_row, own[2], last, begin, end;
};
TH_DEVICE Keys keys_of_thread(const AttentionSpec& s) {
  const Lane lane = lane_of_thread();
  Keys k{};
  k.at = place_of_tile(s.kv_heads, s.kv_len);
  k.warp_row = k.at.row + lane.warp * kWarpRows;
  k.own[0] = k.warp_row + lane.group;
  k.own[1] = k.own[0] + 8;
  const std::int64_t before = s.kv_len - s.q_len;
  k.last = k.at.row + kBlockRows < s.kv_len ? k.at.row + kBlockRows : s.kv_len;
  k.begin = k.at.row > before ? k.at.row - before : 0;
  k.end = s.q_len;
  if (s.window > 0 && k.last - 1 - before + s.window < k.end)
    k.end = k.last - 1 - before + s.window;
  return k;
}

// A tile of queries that begins at `first`, and what its queries have of the forward pass.
struct QueryTile {
  std::int64_t first;
  const std::int32_t* segment_start;
  const float* lse;    // of the tile's queries
  const float* delta;  // likewise
};

// p, dp <- the weights and the gradients of the scores of a tile; both are 0 where a query does not
// see a key.
template <int kQueries>
TH_DEVICE void weigh_queries(float (&p)[kQueries / 8][4], float (&dp)[kQueries / 8][4],
                             const AttentionSpec& s, const QueryTile& tile, const Keys& keys) {
  const Lane lane = lane_of_thread();
  const float scale = s.scale * kLog2E;
  TH_UNROLL
  for (int n = 0; n < kQueries / 8; ++n) {
    TH_UNROLL
    for (int c = 0; c < 4; ++c) {
      const int i = 8 * n + 2 * lane.member + c % 2;
      const bool seen =
          tile.first + i < keys.end && keys.own[c / 2] < s.kv_len &&
          sees(sight_of(s, tile.segment_start, keys.at.batch, tile.first + i), keys.own[c / 2]);
      p[n][c] = seen ? gpu::exp2_fast(p[n][c] * scale - tile.lse[i] * kLog2E) : 0.0f;
      dp[n][c] = seen ? p[n][c] * (dp[n][c] - tile.delta[i]) * s.scale : 0.0f;
    }
  }
}

// Over the heads of the keys' group and the queries that see any of the block's keys, in order.
template <int D>
TH_KERNEL void flash_grad_key_kernel(AttentionSpec s, AttentionGradArgs g, const float* delta) {
  constexpr int kQueries = kTileRows<D>;
  TH_SHARED(Piece<16>, query_pieces, tile_pieces(kQueries, D));
  TH_SHARED(Piece<16>, transposed_pieces, tile_pieces(D, kQueries));
  TH_SHARED(Piece<16>, dout_pieces, tile_pieces(kQueries, D));
  TH_SHARED(Piece<16>, dout_transposed_pieces, tile_pieces(D, kQueries));
  auto* queries = reinterpret_cast<BF16*>(query_pieces);
  auto* queries_transposed = reinterpret_cast<BF16*>(transposed_pieces);
  auto* douts = reinterpret_cast<BF16*>(dout_pieces);
  auto* douts_transposed = reinterpret_cast<BF16*>(dout_transposed_pieces);
  const AttentionArgs& a = g.forward;
  const Keys keys = keys_of_thread(s);
  const Place at = keys.at;
  const std::int64_t group = s.heads / s.kv_heads;
  std::uint32_t key[D / 16][4], value[D / 16][4];
  const std::int64_t offset = key_offset(s, at.batch, keys.warp_row, at.head);
  load_a<D>(key, static_cast<const BF16*>(a.k) + offset, s.kv_stride, s.kv_len - keys.warp_row);
  load_a<D>(value, static_cast<const BF16*>(a.v) + offset, s.kv_stride, s.kv_len - keys.warp_row);
  float dk[D / 8][4] = {}, dv[D / 8][4] = {};
  for (std::int64_t h = at.head * group; h < (at.head + 1) * group; ++h) {
    for (std::int64_t first = keys.begin; first < keys.end; first += kQueries) {
      // Segments only begin later: if the first query sees none of the keys, nor does any other.
      if (first_key(s, a.segment_start, at.batch, first) >= keys.last) break;
      const std::int64_t rows = query_offset(s, at.batch, first, h), stride = s.heads * D;
      const std::int64_t index = (at.batch * s.heads + h) * s.q_len + first;
      gpu::block_barrier();
      load_tile<D, kQueries>(queries, queries_transposed, static_cast<const BF16*>(a.q) + rows,
                             stride, keys.end - first);
      load_tile<D, kQueries>(douts, douts_transposed, static_cast<const BF16*>(g.dout) + rows,
                             stride, keys.end - first);
      gpu::block_barrier();
      float p[kQueries / 8][4], dp[kQueries / 8][4];
      multiply_tile<D, kQueries>(p, key, queries);
      multiply_tile<D, kQueries>(dp, value, douts);
      weigh_queries<kQueries>(p, dp, s, {first, a.segment_start, a.lse + index, delta + index},
                              keys);
      add_weighted<D, kQueries>(dv, p, douts_transposed);
      add_weighted<D, kQueries>(dk, dp, queries_transposed);
    }
  }
  TH_UNROLL
  for (int r = 0; r < 2; ++r) {
    if (keys.own[r] >= s.kv_len) continue;
    const std::int64_t to = key_offset(s, at.batch, keys.own[r], at.head);
    store_row<D>(static_cast<BF16*>(g.dk) + to, dk, r, 1.0f);
    store_row<D>(static_cast<BF16*>(g.dv) + to, dv, r, 1.0f);
  }
}

template <int D>
void forward(const AttentionSpec& s, const AttentionArgs& a) {
  const std::int64_t tiles = (s.q_len + kBlockRows - 1) / kBlockRows;
  gpu::launch(flash_forward_kernel<D>, static_cast<unsigned>(s.batch * s.heads * tiles),
              kFlashThreads, gpu::compute_stream(), s, a);
}

template <int D>
void backward(const AttentionSpec& s, const AttentionGradArgs& g) {
  auto* delta = static_cast<float*>(g.forward.workspace);
  const auto blocks = [&](std::int64_t heads, std::int64_t rows) {
    return static_cast<unsigned>(s.batch * heads * ((rows + kBlockRows - 1) / kBlockRows));
  };
  constexpr std::int64_t kRows = kFlashThreads / gpu::kWarp;
  gpu::launch(flash_delta_kernel<D>,
              static_cast<unsigned>((s.batch * s.heads * s.q_len + kRows - 1) / kRows),
              kFlashThreads, gpu::compute_stream(), s, g, delta);
  gpu::launch(flash_grad_query_kernel<D>, blocks(s.heads, s.q_len), kFlashThreads,
              gpu::compute_stream(), s, g, static_cast<const float*>(delta));
  gpu::launch(flash_grad_key_kernel<D>, blocks(s.kv_heads, s.kv_len), kFlashThreads,
              gpu::compute_stream(), s, g, static_cast<const float*>(delta));
}

bool lies_in_pieces(const void* p) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}

}  // namespace

bool flash_serves(const AttentionSpec& s, const AttentionArgs& a) {
  return s.softcap == 0 && s.dtype == DType::kBF16 && (s.head_dim == 64 || s.head_dim == 128) &&
         s.kv_stride % 8 == 0 && s.kv_len < (1 << 24) && lies_in_pieces(a.q) &&
         lies_in_pieces(a.k) && lies_in_pieces(a.v);
}

void flash_attention(const AttentionSpec& s, const AttentionArgs& a) {
  s.head_dim == 64 ? forward<64>(s, a) : forward<128>(s, a);
}

void flash_attention_grad(const AttentionSpec& s, const AttentionGradArgs& g) {
  s.head_dim == 64 ? backward<64>(s, g) : backward<128>(s, g);
}

}  // namespace thimble::cuda
