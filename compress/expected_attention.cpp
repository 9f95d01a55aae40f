#include "compress/expected_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/threads.h"

namespace thimble {
namespace {

float element(const Tensor& x, std::int64_t row, std::int64_t col) {
  const std::int64_t at = row * x.row_stride() + col;
  return x.dtype() == DType::kBF16 ? to_float(x.data<BF16>()[at]) : x.data<float>()[at];
}

// Running moments of the queries of every head of a layer: [H, 1 + D + D*D] f64 in one tensor: the
// mean and the sum of products of deviations from it.
class Moments {
 public:
  Moments(Arena& arena, const KvShape& s)
      : dim_(s.head_dim),
        memory_(Tensor::empty(arena, MemoryTag::kKv, DType::kU8,
                              Shape{s.heads * (dim_ + dim_ * dim_) * 8}, "moments of queries")) {}

  std::int64_t bytes() const { return memory_.nbytes(); }
  void clear() { count_ = 0; }
  double* mean(std::int64_t head) const {
    return static_cast<double*>(memory_.raw()) + head * (dim_ + dim_ * dim_);
  }
  double* products(std::int64_t head) const { return mean(head) + dim_; }

  // Adds the rows of q [N, H*D]. Ref: Chan, Golub and LeVeque 1983, eq. 1.5 in its form for sets.
  void add(const Tensor& q, std::int64_t heads) {
    const std::int64_t n = q.dim(0);
    if (count_ == 0) std::memset(memory_.raw(), 0, static_cast<std::size_t>(memory_.nbytes()));
    parallel_for_each(heads, n * dim_ * dim_ / 4, [&](std::int64_t h) { add_head(q, h); });
    count_ += n;
  }
  QueryMoments of(std::int64_t head) const {
    QueryMoments m;
    m.mean.assign(mean(head), mean(head) + dim_);
    m.covariance.assign(products(head), products(head) + dim_ * dim_);
    for (double& c : m.covariance) c /= static_cast<double>(std::max<std::int64_t>(count_, 1));
    return m;
  }

 private:
  void add_head(const Tensor& q, std::int64_t head) const {
    const std::int64_t n = q.dim(0);
    std::vector<double> rows(static_cast<std::size_t>(n * dim_));
    std::vector<double> own(static_cast<std::size_t>(dim_));
    for (std::int64_t t = 0; t < n; ++t) {
      for (std::int64_t c = 0; c < dim_; ++c) {
        const double value = element(q, t, head * dim_ + c);
        rows[static_cast<std::size_t>(t * dim_ + c)] = value;
        own[static_cast<std::size_t>(c)] += value / static_cast<double>(n);
      }
    }
    double* to = products(head);
    for (std::int64_t t = 0; t < n; ++t) {
      double* row = rows.data() + t * dim_;
      for (std::int64_t c = 0; c < dim_; ++c) row[c] -= own[static_cast<std::size_t>(c)];
      for (std::int64_t i = 0; i < dim_; ++i) {
        for (std::int64_t j = 0; j < dim_; ++j) to[i * dim_ + j] += row[i] * row[j];
      }
    }
    const auto before = static_cast<double>(count_), now = static_cast<double>(n);
    double* at = mean(head);
    for (std::int64_t i = 0; i < dim_; ++i) own[static_cast<std::size_t>(i)] -= at[i];
    for (std::int64_t i = 0; i < dim_; ++i) {
      const double shift = own[static_cast<std::size_t>(i)];
      for (std::int64_t j = 0; j < dim_; ++j)
        to[i * dim_ + j] +=
            shift * own[static_cast<std::size_t>(j)] * before * now / (before + now);
      at[i] += shift * now / (before + now);
    }
  }

  std::int64_t dim_, count_ = 0;
  Tensor memory_;
};

class ExpectedAttention final : public TokenScorer {
 public:
  ExpectedAttention(Arena& arena, const KvPlan& plan)
      : sinks_(plan.options.sinks), heads_(plan.shape.heads) {
    for (std::int64_t l = 0; l < plan.shape.layers; ++l) moments_.emplace_back(arena, plan.shape);
  }

  bool reads_unrotated() const override { return true; }
  std::int64_t bytes() const override {
    std::int64_t total = 0;
    for (const Moments& m : moments_) total += m.bytes();
    return total;
  }
  void clear() override {
    for (Moments& m : moments_) m.clear();
  }

  void observe(const KvQueries& in) override {
    const std::int64_t begin = in.positions.data<std::int32_t>()[0], count = in.raw_q.dim(0);
    const std::int64_t skipped = std::clamp<std::int64_t>(sinks_ - begin, 0, count);
    if (skipped < count)
      moments_[static_cast<std::size_t>(in.layer)].add(in.raw_q.rows(skipped, count), heads_);
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
        QueryMoments moments;
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
  static void add_query_head(const QueryMoments& moments, const Tensor& k, const Tensor& kc,
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
    const std::vector<float> norms = row_norms(content.head_rows(content.values, head));
    float* out = content.scores.data<float>() + content.first_row(head);
    for (std::size_t i = 0; i < total.size(); ++i)
      out[i] = total[i] / static_cast<float>(group) * norms[i];
  }

  std::int64_t sinks_, heads_;
  std::vector<Moments> moments_;
};

}  // namespace

std::vector<float> row_norms(const Tensor& x) {
  std::vector<float> norms;
  for (std::int64_t r = 0; r < x.dim(0); ++r) {
    double sum = 0;
    for (std::int64_t c = 0; c < x.dim(1); ++c) {
      const double value = element(x, r, c);
      sum += value * value;
    }
    norms.push_back(static_cast<float>(std::sqrt(sum)));
  }
  return norms;
}

QueryMoments rotate_moments(const QueryMoments& moments, const Tensor& rope_table,
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
  QueryMoments out = moments;
  turn(out.mean.data(), 1);
  for (std::int64_t i = 0; i < d; ++i) turn(out.covariance.data() + i, d);      // R C
  for (std::int64_t i = 0; i < d; ++i) turn(out.covariance.data() + i * d, 1);  // (R C) R'
  return out;
}

std::unique_ptr<TokenScorer> make_expected_attention(Arena& arena, const KvPlan& plan) {
  return std::make_unique<ExpectedAttention>(arena, plan);
}

}  // namespace thimble
