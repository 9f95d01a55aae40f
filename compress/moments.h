// Running moments of the vectors of a layer's heads, in f64: mean and covariance over all positions
// so far, however many come at once.
#pragma once

#include <vector>

#include "core/tensor/tensor.h"

namespace thimble {

struct VectorMoments {
  std::vector<double> mean;        // [D]
  std::vector<double> covariance;  // [D, D], over the number of vectors
};

class HeadMoments {
 public:
  /// Of heads of `dim` channels: heads * (D + D * D) f64 in the arena, under `tag`.
  HeadMoments(Arena& arena, MemoryTag tag, std::int64_t heads, std::int64_t dim);

  /// Adds the rows of x [N, heads * D], f32 or bf16.
  /// Ref: Chan, Golub and LeVeque 1983, eq. 1.5 in its form for sets.
  void add(const Tensor& x);
  VectorMoments of(std::int64_t head) const;
  std::int64_t count() const { return count_; }
  std::int64_t bytes() const { return memory_.nbytes(); }
  void clear() { count_ = 0; }

 private:
  double* mean(std::int64_t head) const {
    return static_cast<double*>(memory_.raw()) + head * (dim_ + dim_ * dim_);
  }
  double* products(std::int64_t head) const { return mean(head) + dim_; }
  void add_head(const Tensor& x, std::int64_t head) const;

  std::int64_t heads_, dim_, count_ = 0;
  Tensor memory_;  // of each head its mean and the sums of products of deviations from it
};

/// Element of a matrix that is f32 or bf16.
float matrix_element(const Tensor& x, std::int64_t row, std::int64_t col);

/// Eigenvalues of a symmetric matrix [n, n], descending, and its eigenvectors: row i belongs to
/// value i, of length 1, its largest element positive.
/// Ref: Jacobi's method, by rows; Golub and Van Loan 2013, section 8.5.
struct SymmetricEigen {
  std::vector<double> values;   // [n]
  std::vector<double> vectors;  // [n, n]
};
SymmetricEigen symmetric_eigen(std::vector<double> matrix, std::int64_t n);

}  // namespace thimble
