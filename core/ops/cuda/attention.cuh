// What the kernels of attention share: where queries and keys lie, and what a query may see.
#pragma once

#include "core/ops/cuda/declare.h"
#include "core/ops/cuda/launch.cuh"

namespace thimble::cuda {

/// Row i of the queries [batch * q_len, heads * head_dim], of one head.
TH_DEVICE std::int64_t query_offset(const AttentionSpec& s, std::int64_t b, std::int64_t i,
                                    std::int64_t h) {
  return ((b * s.q_len + i) * s.heads + h) * s.head_dim;
}
TH_DEVICE std::int64_t key_offset(const AttentionSpec& s, std::int64_t b, std::int64_t j,
                                  std::int64_t kv_head) {
  return (b * s.kv_len + j) * s.kv_stride + kv_head * s.head_dim;
}
TH_DEVICE std::int64_t first_key(const AttentionSpec& s, const std::int32_t* segment_start,
                                 std::int64_t b, std::int64_t i) {
  const std::int64_t start = segment_start[b * s.q_len + i], own = i + s.kv_len - s.q_len;
  const std::int64_t nearest = s.window > 0 ? own - s.window + 1 : 0;
  return start > nearest ? start : nearest;
}

/// What one query may see: keys [first, end); none beyond the last query.
struct Sight {
  std::int64_t first, end;
};
TH_DEVICE Sight sight_of(const AttentionSpec& s, const std::int32_t* segment_start, std::int64_t b,
                         std::int64_t i) {
  if (i >= s.q_len) return {INT64_MAX, 0};
  return {first_key(s, segment_start, b, i), i + s.kv_len - s.q_len + 1};
}
TH_DEVICE bool sees(const Sight& sight, std::int64_t key) {
  return key >= sight.first && key < sight.end;
}

/// The first key that any query of the block sees.
template <int kThreadsOfBlock>
TH_DEVICE std::int64_t first_of_block(const Sight& a, const Sight& b, std::int64_t nobody) {
  const std::int64_t first = a.first < b.first ? a.first : b.first;
  const std::int64_t capped = first < nobody ? first : nobody;
  return static_cast<std::int64_t>(-gpu::block_max<kThreadsOfBlock>(-static_cast<float>(capped)));
}

struct Place {
  std::int64_t batch, head, row;
};

/// Whether the kernels for tensor cores take these.
bool flash_serves(const AttentionSpec& s, const AttentionArgs& a);
void flash_attention(const AttentionSpec& s, const AttentionArgs& a);
void flash_attention_grad(const AttentionSpec& s, const AttentionGradArgs& g);

}  // namespace thimble::cuda
