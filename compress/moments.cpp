#include "compress/moments.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <span>

#include "core/base/threads.h"

namespace thimble {
namespace {

std::size_t spot(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

}  // namespace

float matrix_element(const Tensor& x, std::int64_t row, std::int64_t col) {
  const std::int64_t at = row * x.row_stride() + col;
  return x.dtype() == DType::kBF16 ? to_float(x.data<BF16>()[at]) : x.data<float>()[at];
}

HeadMoments::HeadMoments(Arena& arena, MemoryTag tag, std::int64_t heads, std::int64_t dim)
    : heads_(heads),
      dim_(dim),
      memory_(Tensor::empty(arena, tag, DType::kU8, Shape{heads * (dim + dim * dim) * 8},
                            "moments of heads")) {}

void HeadMoments::add(const Tensor& x) {
  const std::int64_t n = x.dim(0);
  if (n == 0 || x.device().planning) return;
  if (count_ == 0) std::memset(memory_.raw(), 0, static_cast<std::size_t>(memory_.nbytes()));
  parallel_for_each(heads_, n * dim_ * dim_ / 4, [&](std::int64_t h) { add_head(x, h); });
  count_ += n;
}

VectorMoments HeadMoments::of(std::int64_t head) const {
  VectorMoments m;
  m.mean.assign(mean(head), mean(head) + dim_);
  m.covariance.assign(products(head), products(head) + dim_ * dim_);
  for (double& c : m.covariance) c /= static_cast<double>(std::max<std::int64_t>(count_, 1));
  return m;
}

void HeadMoments::add_head(const Tensor& x, std::int64_t head) const {
  const std::int64_t n = x.dim(0);
  std::vector<double> rows(spot(n * dim_));
  std::vector<double> own(spot(dim_));
  for (std::int64_t t = 0; t < n; ++t) {
    for (std::int64_t c = 0; c < dim_; ++c) {
      const double value = matrix_element(x, t, head * dim_ + c);
      rows[spot(t * dim_ + c)] = value;
      own[spot(c)] += value / static_cast<double>(n);
    }
  }
  double* to = products(head);
  for (std::int64_t t = 0; t < n; ++t) {
    double* row = rows.data() + t * dim_;
    for (std::int64_t c = 0; c < dim_; ++c) row[c] -= own[spot(c)];
    for (std::int64_t i = 0; i < dim_; ++i) {
      for (std::int64_t j = 0; j < dim_; ++j) to[i * dim_ + j] += row[i] * row[j];
    }
  }
  const auto before = static_cast<double>(count_), now = static_cast<double>(n);
  double* at = mean(head);
  for (std::int64_t i = 0; i < dim_; ++i) own[spot(i)] -= at[i];
  for (std::int64_t i = 0; i < dim_; ++i) {
    const double shift = own[spot(i)];
    for (std::int64_t j = 0; j < dim_; ++j)
      to[i * dim_ + j] += shift * own[spot(j)] * before * now / (before + now);
    at[i] += shift * now / (before + now);
  }
}

namespace {

// By an angle's cosine and sine.
struct Rotation {
  double c, s;
  void turn(double& x, double& y) const {
    const double before = x;
    x = c * before - s * y;
    y = s * before + c * y;
  }
};

void rotate_rows(std::span<double> first, std::span<double> second, const Rotation& rotation) {
  for (std::size_t i = 0; i < first.size(); ++i) rotation.turn(first[i], second[i]);
}

// Makes element (p, q) of the symmetric a zero; `vectors` turn with it.
void annihilate(std::vector<double>& a, std::vector<double>& vectors, std::int64_t n,
                std::int64_t p, std::int64_t q) {
  const double off = a[spot(p * n + q)];
  if (off == 0) return;
  const double theta = (a[spot(q * n + q)] - a[spot(p * n + p)]) / (2 * off);
  const double t = std::copysign(1.0, theta) / (std::abs(theta) + std::hypot(1.0, theta));
  const double c = 1 / std::hypot(1.0, t);
  const Rotation rotation{c, c * t};
  for (std::int64_t i = 0; i < n; ++i) rotation.turn(a[spot(i * n + p)], a[spot(i * n + q)]);
  for (std::vector<double>* each : {&a, &vectors}) {
    const auto row = [&](std::int64_t i) { return std::span(*each).subspan(spot(i * n), spot(n)); };
    rotate_rows(row(p), row(q), rotation);
  }
}

double off_diagonal(const std::vector<double>& a, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j)
      sum += i == j ? 0 : a[spot(i * n + j)] * a[spot(i * n + j)];
  }
  return sum;
}

}  // namespace

SymmetricEigen symmetric_eigen(std::vector<double> a, std::int64_t n) {
  constexpr int kMostSweeps = 60;
  TH_CHECK_EQ(a.size(), spot(n * n));
  std::vector<double> vectors(spot(n * n));
  double total = 0;
  for (std::int64_t i = 0; i < n; ++i) vectors[spot(i * n + i)] = 1;
  for (const double x : a) total += x * x;
  for (int sweep = 0; sweep < kMostSweeps && off_diagonal(a, n) > 1e-30 * total; ++sweep) {
    for (std::int64_t p = 0; p + 1 < n; ++p) {
      for (std::int64_t q = p + 1; q < n; ++q) annihilate(a, vectors, n, p, q);
    }
  }
  std::vector<std::int64_t> order(spot(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t i, std::int64_t j) {
    return a[spot(i * n + i)] > a[spot(j * n + j)];
  });
  SymmetricEigen out{.values = {}, .vectors = {}};
  for (const std::int64_t i : order) {
    out.values.push_back(a[spot(i * n + i)]);
    const double* row = vectors.data() + i * n;
    const double largest = *std::max_element(
        row, row + n, [](double x, double y) { return std::abs(x) < std::abs(y); });
    for (std::int64_t c = 0; c < n; ++c) out.vectors.push_back(largest < 0 ? -row[c] : row[c]);
  }
  return out;
}

}  // namespace thimble
