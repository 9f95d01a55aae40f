#include "compress/expected_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/threads.h"

namespace thimble {
namespace {

class ExpectedAttention final : public TokenScorer {
 public:
  ExpectedAttention(Arena& arena, const KvPlan& plan) : sinks_(plan.options.sinks) {
    for (std::int64_t l = 0; l < plan.shape.layers; ++l)
      moments_.emplace_back(arena, MemoryTag::kKv, plan.shape.heads, plan.shape.head_dim);
  }

  bool reads_unrotated() const override { return true; }
  std::int64_t bytes() const override {
    std::int64_t total = 0;
    for (const HeadMoments& m : moments_) total += m.bytes();
    return total;
  }
  void clear() override {
    for (HeadMoments& m : moments_) m.clear();
  }

  void observe(const KvQueries& in) override {
    const std::int64_t begin = in.positions.data<std::int32_t>()[0], count = in.raw_q.dim(0);
    const std::int64_t skipped = std::clamp<std::int64_t>(sinks_ - begin, 0, count);
    if (skipped < count)
      moments_[static_cast<std::size_t>(in.layer)].add(in.raw_q.rows(skipped, count));
  }

  void score(Arena& arena, const KvQueries& in, const LayerContent& content) override {
    const std::int64_t d = content.head_dim(), group = in.shape.heads / content.heads();
    const Tensor keys = Tensor::empty(arena, MemoryTag::kWorkspace, DType::kF32,
                                      Shape{content.stride, d}, "keys of a head");
    const Tensor products = Tensor::empty(arena, MemoryTag::kWorkspace, DType::kF32,
                                          Shape{content.stride, d}, "products of keys");
    const Tensor matrix =
        Tensor::empty(arena, MemoryTag::kWorkspace, DType::kF32, Shape{d, d}, "covariance");
    const bool planning = arena.device().planning;
    for (std::int64_t h = 0; h < content.heads(); ++h) {
      const Tensor k = keys.rows(0, content.length(h)), kc = products.rows(0, content.length(h));
      ops::cast(k, content.head_rows(content.rotated, h));
      std::vector<float> total(static_cast<std::size_t>(content.length(h)), 0.0f);
      for (std::int64_t g = 0; g < group; ++g) {
        VectorMoments moments;
        if (!planning) {
          const std::int64_t next = in.positions.data<std::int32_t>()[in.positions.dim(0) - 1] + 1;
          moments = rotate_moments(moments_[static_cast<std::size_t>(in.layer)].of(h * group + g),
                                   in.rope_table, next, kLookAhead);
          std::copy(moments.covariance.begin(), moments.covariance.end(), matrix.data<float>());
        }
        ops::matmul(arena, {k}, {matrix}, kc);
        if (!planning) add_query_head(moments, k, kc, skipped_of(content, h), total);
      }
      if (!planning) finish(content, h, group, total);
    }
  }

 private:
  std::int64_t skipped_of(const LayerContent& content, std::int64_t head) const {
    const std::int32_t* positions =
        content.positions.data<std::int32_t>() + content.first_row(head);
    return std::lower_bound(positions, positions + content.length(head), sinks_) - positions;
  }

  // total += softmax over the positions from `skip` on.
  static void add_query_head(const VectorMoments& moments, const Tensor& k, const Tensor& kc,
                             std::int64_t skip, std::vector<float>& total) {
    const std::int64_t n = k.dim(0), d = k.dim(1);
    std::vector<double> logits(static_cast<std::size_t>(n));
    parallel_for(n, 2 * d, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const float *row = k.data<float>() + t * d, *other = kc.data<float>() + t * d;
        double mean = 0, square = 0;
        for (std::int64_t c = 0; c < d; ++c) {
          mean += row[c] * moments.mean[static_cast<std::size_t>(c)];
          square += static_cast<double>(row[c]) * other[c];
        }
        const auto dim = static_cast<double>(d);
        logits[static_cast<std::size_t>(t)] = mean / std::sqrt(dim) + square / dim / 2;
      }
    });
    double top = -HUGE_VAL, sum = 0;
    for (std::int64_t t = skip; t < n; ++t)
      top = std::max(top, logits[static_cast<std::size_t>(t)]);
    for (std::int64_t t = skip; t < n; ++t) {
      double& l = logits[static_cast<std::size_t>(t)];
      l = std::exp(l - top);
      sum += l;
    }
    for (std::int64_t t = skip; t < n; ++t)
      total[static_cast<std::size_t>(t)] +=
          static_cast<float>(logits[static_cast<std::size_t>(t)] / sum);
  }

  static void finish(const LayerContent& content, std::int64_t head, std::int64_t group,
                     const std::vector<float>& total) {
    const std::vector<float> norms = row_norms(content.head_rows(content.attended, head));
    float* out = content.scores.data<float>() + content.first_row(head);
    for (std::size_t i = 0; i < total.size(); ++i)
      out[i] = total[i] / static_cast<float>(group) * norms[i];
  }

  std::int64_t sinks_;
  std::vector<HeadMoments> moments_;
};

}  // namespace

std::vector<float> row_norms(const Tensor& x) {
  std::vector<float> norms;
  for (std::int64_t r = 0; r < x.dim(0); ++r) {
    double sum = 0;
    for (std::int64_t c = 0; c < x.dim(1); ++c) {
      const double value = matrix_element(x, r, c);
      sum += value * value;
    }
    norms.push_back(static_cast<float>(std::sqrt(sum)));
  }
  return norms;
}

VectorMoments rotate_moments(const VectorMoments& moments, const Tensor& rope_table,
                             std::int64_t begin, std::int64_t count) {
  const std::int64_t d = rope_table.dim(1), half = d / 2;
  const std::int64_t last = std::min(rope_table.dim(0), begin + count);
  const std::int64_t first = std::min(begin, last - 1);
  // The mean rotation turns a pair of channels and shortens it.
  std::vector<double> cosine(static_cast<std::size_t>(half)), sine(cosine.size());
  for (std::int64_t p = first; p < last; ++p) {
    const float* row = rope_table.data<float>() + p * d;
    for (std::int64_t c = 0; c < half; ++c) {
      cosine[static_cast<std::size_t>(c)] += row[c] / static_cast<double>(last - first);
      sine[static_cast<std::size_t>(c)] += row[half + c] / static_cast<double>(last - first);
    }
  }
  const auto turn = [&](double* x, std::int64_t stride) {
    for (std::int64_t c = 0; c < half; ++c) {
      const double a = x[c * stride], b = x[(half + c) * stride];
      const double cos = cosine[static_cast<std::size_t>(c)],
                   sin = sine[static_cast<std::size_t>(c)];
      x[c * stride] = a * cos - b * sin;
      x[(half + c) * stride] = b * cos + a * sin;
    }
  };
  VectorMoments out = moments;
  turn(out.mean.data(), 1);
  for (std::int64_t i = 0; i < d; ++i) turn(out.covariance.data() + i, d);      // R C
  for (std::int64_t i = 0; i < d; ++i) turn(out.covariance.data() + i * d, 1);  // (R C) R'
  return out;
}

std::unique_ptr<TokenScorer> make_expected_attention(Arena& arena, const KvPlan& plan) {
  return std::make_unique<ExpectedAttention>(arena, plan);
}

}  // namespace thimble
