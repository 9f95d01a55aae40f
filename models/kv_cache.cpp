#include "models/kv_cache.h"

#include <algorithm>

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

std::int64_t DenseKvCache::bytes() const {
  std::int64_t total = 0;
  for (const Layer& l : layers_) total += l.k.nbytes() + l.v.nbytes();
  return total;
}

Tensor DenseKvCache::keys(int layer) const {
  return layers_.at(static_cast<std::size_t>(layer)).k.rows(0, length_);
}

Tensor DenseKvCache::values(int layer) const {
  return layers_.at(static_cast<std::size_t>(layer)).v.rows(0, length_);
}

Tensor DenseKvCache::attend(Arena& arena, const KvQueries& in) {
  const Layer& l = layers_.at(static_cast<std::size_t>(in.layer));
  const std::int64_t end = length_ + in.k.dim(0);
  TH_CHECK(end <= capacity_, "{} positions in a cache of {}", end, capacity_);
  ops::copy(l.k.rows(length_, end), in.k);
  ops::copy(l.v.rows(length_, end), in.v);
  Tensor out =
      Tensor::empty(arena, MemoryTag::kActivations, in.q.dtype(), in.q.shape(), "attention");
  ops::attention(arena, in.shape,
                 {.q = in.q,
                  .k = l.k.rows(0, end),
                  .v = l.v.rows(0, end),
                  .segment_start = in.segment_start,
                  .out = out,
                  .lse = Tensor()});
  return out;
}

bool KvBatch::reads_unrotated() const {
  return std::any_of(parts_.begin(), parts_.end(),
                     [](const Part& p) { return p.store->reads_unrotated(); });
}

bool KvBatch::reads_inputs() const {
  return std::any_of(parts_.begin(), parts_.end(),
                     [](const Part& p) { return p.store->reads_inputs(); });
}

Tensor KvBatch::attend(Arena& arena, const KvQueries& in) {
  Tensor out =
      Tensor::empty(arena, MemoryTag::kActivations, in.q.dtype(), in.q.shape(), "attention");
  std::int64_t row = 0;
  for (const Part& part : parts_) {
    const std::int64_t end = row + part.rows;
    const auto rows = [&](const Tensor& x) { return x.defined() ? x.rows(row, end) : x; };
    KvQueries one{.layer = in.layer,
                  .q = rows(in.q),
                  .k = rows(in.k),
                  .v = rows(in.v),
                  .raw_q = rows(in.raw_q),
                  .raw_k = rows(in.raw_k),
                  .input = rows(in.input),
                  .positions = rows(in.positions),
                  .segment_start = rows(in.segment_start),
                  .rope_table = in.rope_table,
                  .shape = in.shape};
    one.shape.batch = 1;
    ops::copy(out.rows(row, end), part.store->attend(arena, one));
    row = end;
  }
  TH_CHECK_EQ(row, in.q.dim(0));
  return out;
}

}  // namespace thimble
