#include "models/kv_cache.h"

#include "core/ops/ops.h"

namespace thimble {

DenseKvCache::DenseKvCache(Arena& arena, const ModelConfig& config, DType dtype,
                           std::int64_t capacity)
    : capacity_(capacity) {
  const Shape shape{capacity, config.num_kv_heads * config.head_dim};
  for (std::int64_t l = 0; l < config.num_layers; ++l) {
    layers_.push_back({Tensor::empty(arena, MemoryTag::kKv, dtype, shape, "keys"),
                       Tensor::empty(arena, MemoryTag::kKv, dtype, shape, "values")});
  }
}

std::int64_t DenseKvCache::bytes_per_position(const ModelConfig& config, DType dtype) {
  return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype_size(dtype);
}

std::pair<Tensor, Tensor> DenseKvCache::append(int layer, const Tensor& k, const Tensor& v) {
  Layer& l = layers_.at(static_cast<std::size_t>(layer));
  const std::int64_t end = length_ + k.dim(0);
  TH_CHECK(end <= capacity_, "{} positions in a cache of {}", end, capacity_);
  ops::copy(l.k.rows(length_, end), k);
  ops::copy(l.v.rows(length_, end), v);
  return {l.k.rows(0, end), l.v.rows(0, end)};
}

}  // namespace thimble
