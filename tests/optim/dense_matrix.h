// A small f64 matrix for steps by hand.
#pragma once

#include <Eigen/Dense>
#include <cstdint>
#include <vector>

namespace thimble {

struct Dense {
  std::int64_t rows = 0, columns = 0;
  std::vector<double> values;  // row by row

  Dense(std::int64_t r, std::int64_t c)
      : rows(r), columns(c), values(static_cast<std::size_t>(r * c)) {}
  Dense(std::int64_t r, std::int64_t c, std::vector<double> v)
      : rows(r), columns(c), values(std::move(v)) {}

  double& at(std::int64_t r, std::int64_t c) {
    return values[static_cast<std::size_t>(r * columns + c)];
  }
  double at(std::int64_t r, std::int64_t c) const {
    return values[static_cast<std::size_t>(r * columns + c)];
  }
  Dense transposed() const { return from(eigen().transpose()); }
  Dense scaled(double factor) const { return from(factor * eigen()); }
  /// f of each element and the one of `other` in its place.
  template <typename F>
  Dense map(F&& f, const Dense& other) const {
    Dense out(rows, columns);
    for (std::size_t i = 0; i < values.size(); ++i) out.values[i] = f(values[i], other.values[i]);
    return out;
  }
  Dense solve(const Dense& right) const { return from(eigen().fullPivLu().solve(right.eigen())); }
  friend Dense operator*(const Dense& a, const Dense& b) { return from(a.eigen() * b.eigen()); }
  friend Dense operator+(const Dense& a, const Dense& b) { return from(a.eigen() + b.eigen()); }

 private:
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Matrix eigen() const { return Eigen::Map<const Matrix>(values.data(), rows, columns); }
  static Dense from(const Matrix& m) {
    return {m.rows(), m.cols(), std::vector<double>(m.data(), m.data() + m.size())};
  }
};

}  // namespace thimble
