// Attention for every dtype, head size and segment boundary, without a score matrix in memory; it
// serves where the kernels for tensor cores (flash_attention.cu) do not. A warp has a query
// (backward: a query, or a key and all queries that see it), a lane has a key of 32. Sums are made
// in a fixed order. Ref: Dao et al. 2022, "FlashAttention", algorithms 1 and 4.
#include "core/ops/cuda/attention.cuh"

namespace thimble::cuda {
namespace {

constexpr int kLanes = gpu::kWarp;
constexpr int kMostHeadDim = 256;
constexpr int kMostEach = kMostHeadDim / kLanes;  // of a head's values, by one lane

template <typename T>
TH_DEVICE float dot(const float* a, const T* b, std::int64_t n) {
  float sum = 0;
  for (std::int64_t d = 0; d < n; ++d) sum += a[d] * to_float(b[d]);
  return sum;
}

template <typename T>
TH_DEVICE void load_shared(float* to, const T* from, std::int64_t n) {
  for (std::int64_t d = threadIdx.x; d < n; d += kLanes) to[d] = to_float(from[d]);
}

template <typename T>
TH_DEVICE void store_lanes(T* to, const float* values, std::int64_t n, float factor) {
  TH_UNROLL
  for (int e = 0; e < kMostEach; ++e) {
    const std::int64_t d = threadIdx.x + e * kLanes;
    const float value = values[e] * factor;
    if (d < n) store_floats<1>(to + d, 1, &value);
  }
}

// At most 32 rows of `n` values, `stride` values apart.
template <typename T>
struct Rows {
  const T* from;
  std::int64_t count, n, stride;
};

// values[e] += sum over the rows of factors[row] * rows[row][lane + 32 e].
template <typename T>
TH_DEVICE void add_rows(float* values, const float* factors, const Rows<T>& rows) {
  for (std::int64_t r = 0; r < rows.count; ++r) {
    TH_UNROLL
    for (int e = 0; e < kMostEach; ++e) {
      const std::int64_t d = threadIdx.x + e * kLanes;
      if (d < rows.n) values[e] += factors[r] * to_float(rows.from[r * rows.stride + d]);
    }
  }
}

// The score of a scaled product, and by what its gradient is multiplied.
struct Score {
  float value, slope;
};
TH_DEVICE Score score_of(const AttentionSpec& s, float product) {
  const float scaled = s.scale * product;
  if (s.softcap == 0.0f) return {scaled, s.scale};
  const float t = fast_tanh(scaled * (1.0f / s.softcap));
  return {s.softcap * t, (1.0f - t * t) * s.scale};
}

TH_DEVICE Place place_of_block(std::int64_t heads, std::int64_t rows) {
  const std::int64_t block = blockIdx.x;
  return {block / (heads * rows), block / rows % heads, block % rows};
}

template <typename T>
TH_KERNEL void attention_kernel(AttentionSpec s, AttentionArgs a) {
  TH_SHARED(float, query, kMostHeadDim);
  TH_SHARED(float, weights, kLanes);
  const Place at = place_of_block(s.heads, s.q_len);
  const std::int64_t kv_head = at.head / (s.heads / s.kv_heads);
  const std::int64_t offset = query_offset(s, at.batch, at.row, at.head);
  load_shared(query, static_cast<const T*>(a.q) + offset, s.head_dim);
  gpu::block_barrier();
  const std::int64_t begin = first_key(s, a.segment_start, at.batch, at.row),
                     end = at.row + s.kv_len - s.q_len + 1;
  float top = -HUGE_VALF, sum = 0, out[kMostEach] = {};
  for (std::int64_t first = begin; first < end; first += kLanes) {
    const std::int64_t j = first + threadIdx.x;
    float score = -HUGE_VALF;
    if (j < end) {
      score =
          score_of(s, dot(query, static_cast<const T*>(a.k) + key_offset(s, at.batch, j, kv_head),
                          s.head_dim))
              .value;
    }
    const float now = gpu::warp_max(score), higher = now > top ? now : top;
    const float shrink = fast_exp(top - higher);
    const float weight = j < end ? fast_exp(score - higher) : 0.0f;
    weights[threadIdx.x] = weight;
    sum = sum * shrink + gpu::warp_sum(weight);
    top = higher;
    gpu::block_barrier();
    for (float& value : out) value *= shrink;
    add_rows(out, weights,
             Rows<T>{static_cast<const T*>(a.v) + key_offset(s, at.batch, first, kv_head),
                     end - first < kLanes ? end - first : kLanes, s.head_dim, s.kv_stride});
    gpu::block_barrier();
  }
  store_lanes(static_cast<T*>(a.out) + offset, out, s.head_dim, 1.0f / sum);
  if (threadIdx.x == 0 && a.lse != nullptr)
    a.lse[(at.batch * s.heads + at.head) * s.q_len + at.row] = top + std::log(sum);
}

// delta[batch, heads, q_len] = sum over the head of dout * out, and dq.
template <typename T>
TH_KERNEL void attention_grad_query_kernel(AttentionSpec s, AttentionGradArgs g, float* delta) {
  TH_SHARED(float, query, kMostHeadDim);
  TH_SHARED(float, dout, kMostHeadDim);
  TH_SHARED(float, dscores, kLanes);
  const AttentionArgs& a = g.forward;
  const Place at = place_of_block(s.heads, s.q_len);
  const std::int64_t kv_head = at.head / (s.heads / s.kv_heads);
  const std::int64_t offset = query_offset(s, at.batch, at.row, at.head);
  load_shared(query, static_cast<const T*>(a.q) + offset, s.head_dim);
  load_shared(dout, static_cast<const T*>(g.dout) + offset, s.head_dim);
  gpu::block_barrier();
  float own = 0;
  for (std::int64_t d = threadIdx.x; d < s.head_dim; d += kLanes)
    own += dout[d] * to_float(static_cast<const T*>(a.out)[offset + d]);
  const std::int64_t row = (at.batch * s.heads + at.head) * s.q_len + at.row;
  const float lse = a.lse[row], row_delta = gpu::warp_sum(own);
  if (threadIdx.x == 0) delta[row] = row_delta;
  const std::int64_t begin = first_key(s, a.segment_start, at.batch, at.row),
                     end = at.row + s.kv_len - s.q_len + 1;
  float dq[kMostEach] = {};
  for (std::int64_t first = begin; first < end; first += kLanes) {
    const std::int64_t j = first + threadIdx.x;
    float dscore = 0;
    if (j < end) {
      const std::int64_t key = key_offset(s, at.batch, j, kv_head);
      const Score score = score_of(s, dot(query, static_cast<const T*>(a.k) + key, s.head_dim));
      const float p = fast_exp(score.value - lse);
      dscore =
          p * (dot(dout, static_cast<const T*>(a.v) + key, s.head_dim) - row_delta) * score.slope;
    }
    dscores[threadIdx.x] = dscore;
    gpu::block_barrier();
    add_rows(dq, dscores,
             Rows<T>{static_cast<const T*>(a.k) + key_offset(s, at.batch, first, kv_head),
                     end - first < kLanes ? end - first : kLanes, s.head_dim, s.kv_stride});
    gpu::block_barrier();
  }
  store_lanes(static_cast<T*>(g.dq) + offset, dq, s.head_dim, 1.0f);
}

// dk and dv of one key, which lie as k does: over the heads of its group and the queries that see
// it, in order.
template <typename T>
TH_KERNEL void attention_grad_key_kernel(AttentionSpec s, AttentionGradArgs g, const float* delta) {
  TH_SHARED(float, key, kMostHeadDim);
  TH_SHARED(float, value, kMostHeadDim);
  TH_SHARED(float, weights, kLanes);
  TH_SHARED(float, dscores, kLanes);
  const AttentionArgs& a = g.forward;
  const Place at = place_of_block(s.kv_heads, s.kv_len);
  const std::int64_t group = s.heads / s.kv_heads, before = s.kv_len - s.q_len;
  const std::int64_t offset = key_offset(s, at.batch, at.row, at.head);
  load_shared(key, static_cast<const T*>(a.k) + offset, s.head_dim);
  load_shared(value, static_cast<const T*>(a.v) + offset, s.head_dim);
  gpu::block_barrier();
  const std::int64_t begin = at.row > before ? at.row - before : 0;
  std::int64_t end = s.q_len;
  if (s.window > 0 && at.row - before + s.window < end) end = at.row - before + s.window;
  float dk[kMostEach] = {}, dv[kMostEach] = {};
  for (std::int64_t h = at.head * group; h < (at.head + 1) * group; ++h) {
    for (std::int64_t first = begin; first < end; first += kLanes) {
      const std::int64_t i = first + threadIdx.x;
      float weight = 0, dscore = 0;
      if (i < end && first_key(s, a.segment_start, at.batch, i) <= at.row) {
        const std::int64_t query = query_offset(s, at.batch, i, h),
                           row = (at.batch * s.heads + h) * s.q_len + i;
        const Score score = score_of(s, dot(key, static_cast<const T*>(a.q) + query, s.head_dim));
        weight = fast_exp(score.value - a.lse[row]);
        dscore = weight *
                 (dot(value, static_cast<const T*>(g.dout) + query, s.head_dim) - delta[row]) *
                 score.slope;
      }
      weights[threadIdx.x] = weight;
      dscores[threadIdx.x] = dscore;
      gpu::block_barrier();
      const std::int64_t rows = query_offset(s, at.batch, first, h),
                         count = end - first < kLanes ? end - first : kLanes,
                         stride = s.heads * s.head_dim;
      add_rows(dv, weights,
               Rows<T>{static_cast<const T*>(g.dout) + rows, count, s.head_dim, stride});
      add_rows(dk, dscores, Rows<T>{static_cast<const T*>(a.q) + rows, count, s.head_dim, stride});
      gpu::block_barrier();
    }
  }
  store_lanes(static_cast<T*>(g.dk) + offset, dk, s.head_dim, 1.0f);
  store_lanes(static_cast<T*>(g.dv) + offset, dv, s.head_dim, 1.0f);
}

void check(const AttentionSpec& s) {
  if (s.head_dim > kMostHeadDim)
    throw_user("attention heads of {} values; on a GPU at most {}", s.head_dim, kMostHeadDim);
}

}  // namespace

void attention(const AttentionSpec& s, const AttentionArgs& a) {
  check(s);
  if (flash_serves(s, a)) return flash_attention(s, a);
  with_float_type(s.dtype, [&](auto* type) {
    gpu::launch(attention_kernel<std::remove_pointer_t<decltype(type)>>,
                static_cast<unsigned>(s.batch * s.heads * s.q_len), kLanes, gpu::compute_stream(),
                s, a);
  });
}

void attention_grad(const AttentionSpec& s, const AttentionGradArgs& g) {
  check(s);
  if (flash_serves(s, g.forward)) return flash_attention_grad(s, g);
  auto* delta = static_cast<float*>(g.forward.workspace);
  with_float_type(s.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    gpu::launch(attention_grad_query_kernel<T>, static_cast<unsigned>(s.batch * s.heads * s.q_len),
                kLanes, gpu::compute_stream(), s, g, delta);
    gpu::launch(attention_grad_key_kernel<T>,
                static_cast<unsigned>(s.batch * s.kv_heads * s.kv_len), kLanes,
                gpu::compute_stream(), s, g, static_cast<const float*>(delta));
  });
}

}  // namespace thimble::cuda
