// One layer or more of random queries, keys and values through a compressed cache, and plain
// attention in f64 over whatever the cache says that it holds.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <set>
#include <vector>

#include "compress/compressed_cache.h"
#include "core/ops/rope.h"
#include "tests/core/expect_close.h"

namespace thimble {

inline KvShape small_shape(std::int64_t capacity) {
  return {.layers = 2,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 16,
          .windows = {0, 0},
          .dtype = DType::kF32,
          .capacity = capacity};
}

/// Half-split rotation by position * 100^(-2c/D).
inline Tensor small_rope_table(Arena& arena, std::int64_t positions, std::int64_t dim) {
  const Tensor t = Tensor::empty(arena, MemoryTag::kWorkspace, DType::kF32, Shape{positions, dim});
  for (std::int64_t p = 0; p < positions; ++p) {
    for (std::int64_t c = 0; c < dim / 2; ++c) {
      const double angle = static_cast<double>(p) * std::pow(100.0, -2.0 * static_cast<double>(c) /
                                                                        static_cast<double>(dim));
      t.data<float>()[p * dim + c] = static_cast<float>(std::cos(angle));
      t.data<float>()[p * dim + dim / 2 + c] = static_cast<float>(std::sin(angle));
    }
  }
  return t;
}

class CacheHarness {
 public:
  CacheHarness(const KvOptions& options, const KvShape& shape, std::uint64_t seed = 1)
      : shape_(shape),
        table_(small_rope_table(*arena_, shape.capacity + 512, shape.head_dim)),
        cache_(std::make_unique<CompressedKvCache>(*kv_arena_, make_kv_plan(options, shape))),
        seed_(seed) {
    arena_->set_poison(true);
  }

  CompressedKvCache& cache() { return *cache_; }
  Arena& kv_arena() { return *kv_arena_; }
  Arena& arena() { return *arena_; }
  const Tensor& table() const { return table_; }

  /// The queries, keys and values of positions [length, length + count) of a layer.
  KvQueries inputs(int layer, std::int64_t count) {
    const std::int64_t begin = cache_->length();
    KvQueries in{.layer = layer};
    in.raw_q = rows(layer, 0, begin, count, shape_.heads);
    in.raw_k = rows(layer, 1, begin, count, shape_.kv_heads);
    in.v = rows(layer, 2, begin, count, shape_.kv_heads);
    in.positions = Tensor::empty(*arena_, MemoryTag::kWorkspace, DType::kI32, Shape{count});
    in.segment_start = Tensor::empty(*arena_, MemoryTag::kWorkspace, DType::kI32, Shape{count});
    for (std::int64_t t = 0; t < count; ++t) {
      in.positions.data<std::int32_t>()[t] = static_cast<std::int32_t>(begin + t);
      in.segment_start.data<std::int32_t>()[t] = 0;
    }
    in.q = rotated(in.raw_q, in.positions);
    in.k = rotated(in.raw_k, in.positions);
    in.rope_table = table_;
    in.shape = {.batch = 1,
                .heads = shape_.heads,
                .kv_heads = shape_.kv_heads,
                .head_dim = shape_.head_dim,
                .window = shape_.windows[static_cast<std::size_t>(layer)],
                .scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim))};
    return in;
  }

  /// Feeds all layers; returns what they attend to, layer after layer.
  std::vector<double> feed(std::int64_t count) {
    std::vector<double> out;
    for (int l = 0; l < static_cast<int>(shape_.layers); ++l) {
      const std::vector<double> one = values_of(cache_->attend(*arena_, inputs(l, count)));
      out.insert(out.end(), one.begin(), one.end());
    }
    cache_->advance(count);
    return out;
  }

  /// What one position attends to over the rows that the heads hold, itself included, in f64.
  /// Called after it was fed, before anything is evicted.
  std::vector<double> plain_attention(const KvQueries& in) const {
    std::vector<double> out;
    const std::int64_t d = shape_.head_dim, group = shape_.heads / shape_.kv_heads;
    for (std::int64_t h = 0; h < shape_.heads; ++h) {
      const HeadCache& head = cache_->head(in.layer, h / group);
      const auto n = static_cast<std::size_t>(head.length());
      std::vector<float> keys(n * static_cast<std::size_t>(d)), values(keys.size());
      std::vector<std::int32_t> positions(n);
      head.gather({.keys = keys.data(),
                   .values = values.data(),
                   .key_stride = d,
                   .value_stride = d,
                   .positions = positions.data()});
      const auto one = attend_plain(in.q.data<float>() + h * d, keys, values);
      out.insert(out.end(), one.begin(), one.end());
    }
    return out;
  }

 private:
  std::vector<double> attend_plain(const float* q, const std::vector<float>& keys,
                                   const std::vector<float>& values) const {
    const auto d = static_cast<std::size_t>(shape_.head_dim);
    std::vector<double> weights, out(d);
    double total = 0;
    for (std::size_t t = 0; t < keys.size() / d; ++t) {
      double dot = 0;
      for (std::size_t c = 0; c < d; ++c) dot += static_cast<double>(q[c]) * keys[t * d + c];
      weights.push_back(std::exp(dot / std::sqrt(static_cast<double>(d))));
      total += weights.back();
    }
    for (std::size_t t = 0; t < weights.size(); ++t) {
      for (std::size_t c = 0; c < d; ++c) out[c] += weights[t] / total * values[t * d + c];
    }
    return out;
  }

  // Values that depend on layer, kind and position alone.
  Tensor rows(int layer, std::uint64_t kind, std::int64_t begin, std::int64_t count,
              std::int64_t heads) const {
    const std::int64_t width = heads * shape_.head_dim;
    const Tensor t =
        Tensor::empty(*arena_, MemoryTag::kWorkspace, DType::kF32, Shape{count, width});
    const CounterRandom random(seed_, RandomPurpose::kSampling, kind,
                               static_cast<std::uint64_t>(layer));
    for (std::int64_t i = 0; i < count * width; ++i)
      t.data<float>()[i] = random.normal(static_cast<std::uint64_t>(begin * width + i));
    return t;
  }
  Tensor rotated(const Tensor& x, const Tensor& positions) const {
    const Tensor out = Tensor::empty(*arena_, MemoryTag::kWorkspace, DType::kF32, x.shape());
    ops::copy(out, x);
    ops::rope(out, table_, positions, false);
    return out;
  }

  KvShape shape_;
  std::unique_ptr<Arena> arena_ = Arena::make_cpu(256 * kMiB);
  std::unique_ptr<Arena> kv_arena_ = Arena::make_cpu(256 * kMiB);
  Tensor table_;
  std::unique_ptr<CompressedKvCache> cache_;
  std::uint64_t seed_;
};

}  // namespace thimble
