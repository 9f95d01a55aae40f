#include "compress/scorers.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "compress/expected_attention.h"
#include "compress/retaining_heads.h"
#include "core/base/random.h"
#include "core/base/threads.h"
#include "core/ops/rope.h"

namespace thimble {
namespace {

float* scores_of(const LayerContent& content, std::int64_t head) {
  return content.scores.data<float>() + content.first_row(head);
}
const std::int32_t* positions_of(const LayerContent& content, std::int64_t head) {
  return content.positions.data<std::int32_t>() + content.first_row(head);
}

class RandomScorer final : public TokenScorer {
 public:
  explicit RandomScorer(std::uint64_t seed) : seed_(seed) {}
  void score(Arena& arena, const KvQueries& in, const LayerContent& content) override {
    if (arena.device().planning) return;
    for (std::int64_t h = 0; h < content.heads(); ++h) {
      const CounterRandom random(seed_, RandomPurpose::kSampling,
                                 static_cast<std::uint64_t>(in.layer),
                                 static_cast<std::uint64_t>(h));
      for (std::int64_t i = 0; i < content.length(h); ++i)
        scores_of(content, h)[i] =
            random.uniform(static_cast<std::uint64_t>(positions_of(content, h)[i]));
    }
  }

 private:
  std::uint64_t seed_;
};

// Ref: Devoto et al. 2024, "A Simple and Effective L2 Norm-Based Strategy for KV Cache
// Compression".
class KnormScorer final : public TokenScorer {
 public:
  void score(Arena& arena, const KvQueries& /*in*/, const LayerContent& content) override {
    if (arena.device().planning) return;
    const std::int64_t d = content.head_dim();
    parallel_for_each(content.heads(), content.stride * d, [&](std::int64_t h) {
      const std::vector<float> norms = row_norms(content.head_rows(content.keys, h));
      for (std::size_t i = 0; i < norms.size(); ++i) scores_of(content, h)[i] = -norms[i];
    });
  }
};

// Scores are in the blocks, where every step of attention adds to them.
// Ref: Zhang et al. 2023, "H2O", section 4.2, with scores summed over the queries of a group.
class HeavyHitterScorer final : public TokenScorer {
 public:
  void score(Arena& /*arena*/, const KvQueries& /*in*/, const LayerContent& /*content*/) override {}
  bool sums_attention() const override { return true; }
};

// What trained heads say of a position when it comes.
class TrainedScorer final : public TokenScorer {
 public:
  explicit TrainedScorer(std::shared_ptr<const RetainingHeads> heads) : heads_(std::move(heads)) {}
  Tensor new_scores(Arena& arena, const KvQueries& in) override {
    return heads_->has_heads(in.layer) ? heads_->scores(arena, in) : Tensor();
  }
  void score(Arena& /*arena*/, const KvQueries& /*in*/, const LayerContent& /*content*/) override {}
  bool reads_unrotated() const override { return true; }

 private:
  std::shared_ptr<const RetainingHeads> heads_;
};

// The attention of the last queries, averaged over them and over a group, and over neighbours.
// Ref: Li et al. 2024, "SnapKV", section 4.1, listing 1.
class SnapScorer final : public TokenScorer {
 public:
  SnapScorer(Arena& arena, const KvPlan& plan) : options_(plan.options) {
    const KvShape& s = plan.shape;
    for (std::int64_t l = 0; l < s.layers; ++l) {
      recent_.push_back(Tensor::empty(arena, MemoryTag::kKv, s.dtype,
                                      Shape{options_.window, s.heads * s.head_dim},
                                      "recent queries"));
      positions_.emplace_back();
    }
  }

  bool reads_unrotated() const override { return slots(); }
  std::int64_t bytes() const override {
    std::int64_t total = 0;
    for (const Tensor& t : recent_) total += t.nbytes();
    return total;
  }
  void clear() override {
    for (auto& each : positions_) each.clear();
  }

  void observe(const KvQueries& in) override {
    const auto l = static_cast<std::size_t>(in.layer);
    const Tensor& q = slots() ? in.raw_q : in.q;
    std::vector<std::int32_t>& held = positions_[l];
    const std::int64_t count = q.dim(0), window = options_.window;
    const std::int64_t fresh = std::min(count, window);
    const std::int64_t old = std::min(static_cast<std::int64_t>(held.size()), window - fresh);
    const std::int64_t bytes = q.dim(1) * dtype_size(q.dtype());
    auto* ring = static_cast<char*>(recent_[l].raw());
    const std::int64_t dropped = static_cast<std::int64_t>(held.size()) - old;
    std::memmove(ring, ring + dropped * bytes, static_cast<std::size_t>(old * bytes));
    std::memcpy(ring + old * bytes, static_cast<const char*>(q.raw()) + (count - fresh) * bytes,
                static_cast<std::size_t>(fresh * bytes));
    held.erase(held.begin(), held.begin() + dropped);
    const std::int32_t* positions = in.positions.data<std::int32_t>();
    held.insert(held.end(), positions + count - fresh, positions + count);
  }

  void score(Arena& arena, const KvQueries& in, const LayerContent& content) override {
    const auto l = static_cast<std::size_t>(in.layer);
    const bool planning = arena.device().planning;
    const std::int64_t count =
        planning ? options_.window : static_cast<std::int64_t>(positions_[l].size());
    const std::int64_t group = in.shape.heads / content.heads();
    for (std::int64_t h = 0; h < content.heads(); ++h) {
      const std::int64_t n = content.length(h), before = std::max<std::int64_t>(n - count, 0);
      const Tensor q =
          group_queries(arena, recent_[l].rows(0, count), h, content.heads(), content.head_dim());
      if (slots()) rotate_recent(arena, q, in.rope_table, n - count, group);
      std::vector<std::int64_t> ends(static_cast<std::size_t>(count * group), n);
      for (std::size_t r = 0; r < ends.size() && !planning; ++r) {
        const std::int32_t* positions = positions_of(content, h);
        ends[r] = std::upper_bound(positions, positions + n,
                                   positions_[l][r / static_cast<std::size_t>(group)]) -
                  positions;
      }
      std::vector<float> sums(static_cast<std::size_t>(n));
      add_attention_mass(arena, {q, content.head_rows(content.rotated, h), ends, in.shape.scale},
                         sums.data());
      if (planning) continue;
      sums.resize(static_cast<std::size_t>(before));
      for (float& s : sums) s /= static_cast<float>(count * group);
      const std::vector<float> pooled = average_pool(sums, options_.pooling);
      std::fill_n(scores_of(content, h), n, 0.0f);
      std::copy(pooled.begin(), pooled.end(), scores_of(content, h));
    }
  }

 private:
  bool slots() const { return options_.positions == PositionPolicy::kSlots; }
  void rotate_recent(Arena& arena, const Tensor& q, const Tensor& table, std::int64_t first,
                     std::int64_t group) const {
    const Tensor slots = Tensor::empty(arena, MemoryTag::kWorkspace, DType::kI32, Shape{q.dim(0)},
                                       "slots of recent queries");
    for (std::int64_t r = 0; r < q.dim(0) && !arena.device().planning; ++r)
      slots.data<std::int32_t>()[r] = narrow<std::int32_t>(first + r / group);
    ops::rope(q, table, slots, false);
  }

  KvOptions options_;
  std::vector<Tensor> recent_;                        // [window, H*D] per layer, oldest first
  std::vector<std::vector<std::int32_t>> positions_;  // of those that are there
};

}  // namespace

std::vector<float> average_pool(std::span<const float> values, std::int64_t width) {
  const auto n = static_cast<std::int64_t>(values.size());
  std::vector<float> out(values.size());
  for (std::int64_t i = 0; i < n; ++i) {
    float sum = 0;
    const std::int64_t end = std::min(n, i + width / 2 + 1);
    for (std::int64_t j = std::max<std::int64_t>(0, i - width / 2); j < end; ++j)
      sum += values[static_cast<std::size_t>(j)];
    out[static_cast<std::size_t>(i)] = sum / static_cast<float>(width);
  }
  return out;
}

void add_attention_mass(Arena& arena, const MassOf& of, float* sums) {
  const auto& [queries, keys, ends, scale] = of;
  const std::int64_t rows = queries.dim(0), cols = keys.dim(0);
  const Tensor scores = Tensor::empty(arena, MemoryTag::kWorkspace, DType::kF32, Shape{rows, cols},
                                      "scores of queries");
  ops::matmul(arena, {queries}, {keys, true}, scores);
  if (arena.device().planning) return;
  const std::vector<std::int64_t> begin(static_cast<std::size_t>(rows), 0);
  const MassArgs args{.rows = rows,
                      .cols = cols,
                      .stride = cols,
                      .scores = scores.data<float>(),
                      .scale = scale,
                      .begin = begin.data(),
                      .end = ends.data()};
  constexpr std::int64_t kExpCost = 8;  // an exponential beside reading a value
  parallel_for(rows, kExpCost * cols, [&](std::int64_t from, std::int64_t to) {
    tile_kernels().softmax_rows(args, from, to);
  });
  parallel_for(cols, rows, [&](std::int64_t from, std::int64_t to) {
    tile_kernels().add_columns(args, sums, from, to);
  });
}

void add_chunk_mass(Arena& arena, const KvQueries& in, const KeyRotation& rotation,
                    const LayerContent& content) {
  constexpr std::int64_t kRows = 64;
  const bool slots = rotation.positions == PositionPolicy::kSlots;
  const Tensor& all = slots ? in.raw_q : in.q;
  const std::int64_t count = all.dim(0), group = in.shape.heads / content.heads();
  for (std::int64_t h = 0; h < content.heads(); ++h) {
    const std::int64_t n = content.length(h);
    for (std::int64_t t = 0; t < count; t += kRows) {
      const std::int64_t end = std::min(count, t + kRows);
      const Tensor q =
          group_queries(arena, all.rows(t, end), h, content.heads(), content.head_dim());
      std::vector<std::int64_t> ends;
      for (std::int64_t r = 0; r < q.dim(0); ++r) ends.push_back(n - count + t + r / group + 1);
      if (slots) {
        const Tensor at = Tensor::empty(arena, MemoryTag::kWorkspace, DType::kI32, Shape{q.dim(0)},
                                        "slots of queries");
        for (std::int64_t r = 0; r < q.dim(0) && !arena.device().planning; ++r)
          at.data<std::int32_t>()[r] = narrow<std::int32_t>(ends[static_cast<std::size_t>(r)] - 1);
        ops::rope(q, in.rope_table, at, false);
      }
      add_attention_mass(arena, {q, content.head_rows(content.rotated, h), ends, in.shape.scale},
                         scores_of(content, h));
    }
  }
}

std::unique_ptr<TokenScorer> make_scorer(Arena& arena, const KvPlan& plan) {
  switch (plan.options.method) {
    case KvMethod::kFull:
    case KvMethod::kWindow:
      return nullptr;
    case KvMethod::kRandom:
      return std::make_unique<RandomScorer>(plan.options.seed);
    case KvMethod::kKnorm:
      return std::make_unique<KnormScorer>();
    case KvMethod::kH2o:
      return std::make_unique<HeavyHitterScorer>();
    case KvMethod::kSnapKv:
      return std::make_unique<SnapScorer>(arena, plan);
    case KvMethod::kExpected:
      return make_expected_attention(arena, plan);
    case KvMethod::kTrained:
      TH_CHECK(plan.options.heads != nullptr, "a trained method without its heads");
      return std::make_unique<TrainedScorer>(plan.options.heads);
  }
  return nullptr;
}

}  // namespace thimble
