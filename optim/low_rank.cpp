#include "optim/low_rank.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/threads.h"
#include "core/ops/op_observer.h"
#include "core/ops/ops.h"
#include "optim/elementwise_table.h"

namespace thimble {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// y <- y R^-1 with R^T R = y^T y, made in `gram`; false if y^T y is not safely positive definite.
bool cholesky_qr(Eigen::Map<Matrix>& y, Eigen::Map<Matrix>& gram) {
  gram.noalias() = y.transpose() * y;
  const Eigen::LLT<Eigen::Ref<Matrix>> llt(gram);
  if (llt.info() != Eigen::Success) return false;
  const auto diagonal = llt.matrixLLT().diagonal().array().abs();
  // The square root of the rounding error of the Gram matrix: below it columns are noise.
  if (!(diagonal.minCoeff() > 1e-3f * diagonal.maxCoeff())) return false;
  llt.matrixU().template solveInPlace<Eigen::OnTheRight>(y);
  return true;
}

bool usable(const float* values, std::int64_t n) {
  float largest = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(values[i])) return false;
    largest = std::max(largest, std::abs(values[i]));
  }
  return largest > 0;
}

}  // namespace

Tensor workspace(const UpdateArgs& args, const Shape& shape, const char* what, DType dtype) {
  return Tensor::empty(*args.arena, MemoryTag::kWorkspace, dtype, shape, what);
}

namespace {

float rounded(float value, const float*) {
  return value;
}
BF16 rounded(float value, const BF16*) {
  return to_bf16(value);
}

template <typename T, typename S>
void mix_typed(T* to, const S* other, std::int64_t n, float own, float share) {
  parallel_for_each(n, 1, [&](std::int64_t i) {
    const float kept = own == 0.0f ? 0.0f : own * to_float(to[i]);
    to[i] = rounded(kept + share * to_float(other[i]), to);
  });
}

template <typename T>
void mix_into(T* to, const Tensor& other, float own, float share) {
  if (other.dtype() == DType::kBF16) {
    mix_typed(to, other.data<BF16>(), other.numel(), own, share);
  } else {
    mix_typed(to, other.data<float>(), other.numel(), own, share);
  }
}

}  // namespace

void mix(const Tensor& to, const Tensor& other, double own, double share) {
  if (to.device().planning) return;
  TH_CHECK_EQ(to.numel(), other.numel());
  const auto a = static_cast<float>(own), b = static_cast<float>(share);
  if (to.dtype() == DType::kBF16) {
    mix_into(to.data<BF16>(), other, a, b);
  } else {
    mix_into(to.data<float>(), other, a, b);
  }
}

LowRankShape low_rank_shape(const ParamInfo& info, Slice slice, std::int64_t rank) {
  const std::int64_t width = info.storage_shape()[1];
  return {slice.rows(), width, std::min(rank, width)};
}

Tensor random_projection(const UpdateArgs& args, const LowRankShape& shape, std::int64_t refresh,
                         DType dtype) {
  const Tensor p = Tensor::empty(*args.arena, MemoryTag::kWorkspace, dtype,
                                 Shape{shape.width, shape.rank}, "projection");
  if (p.device().planning) return p;
  const OpTimer timer("random projection");
  const CounterRandom random(args.seed, RandomPurpose::kProjection, hash_name(args.info.name),
                             static_cast<std::uint64_t>(refresh));
  fill_normal(p, random, 1.0 / std::sqrt(static_cast<double>(shape.rank)));
  return p;
}

Tensor project(const UpdateArgs& args, const LowRankShape& shape, const Tensor& projection) {
  const Tensor r = Tensor::empty(*args.arena, MemoryTag::kWorkspace, DType::kF32,
                                 Shape{shape.rows, shape.rank}, "projected gradient");
  if (shape.rows > 0) ops::matmul(*args.arena, {args.grad}, {projection}, r);
  return r;
}

bool orthonormalise(Arena& arena, const Tensor& y) {
  const std::int64_t rows = y.shape()[0], columns = y.shape()[1];
  const auto temporary = [&](std::int64_t of_rows) {
    return Tensor::empty(arena, MemoryTag::kWorkspace, DType::kF32, Shape{of_rows, columns},
                         "orthonormalise");
  };
  const Tensor kept = temporary(rows), products = temporary(columns);
  if (y.device().planning || !usable(y.data<float>(), y.numel())) return false;
  const OpTimer timer("orthonormalise");
  Eigen::Map<Matrix> map(y.data<float>(), rows, columns),
      original(kept.data<float>(), rows, columns), gram(products.data<float>(), columns, columns);
  map /= map.cwiseAbs().maxCoeff();  // far from overflow of squares
  original = map;
  if (cholesky_qr(map, gram) && cholesky_qr(map, gram)) return true;
  const Eigen::HouseholderQR<Eigen::Ref<Matrix>> qr(original);
  map.setIdentity();
  map.applyOnTheLeft(qr.householderQ());
  return true;
}

bool largest_eigenvectors(const float* matrix, std::int64_t n, std::int64_t rank, float* out) {
  if (!usable(matrix, n * n)) return false;
  const OpTimer timer("eigenvectors");
  const Eigen::Map<const Matrix> map(matrix, n, n);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(map.cast<double>());
  if (solver.info() != Eigen::Success) return false;
  Eigen::Map<Matrix> result(out, n, rank);
  for (std::int64_t c = 0; c < rank; ++c) {
    const Eigen::VectorXd v = solver.eigenvectors().col(n - 1 - c);
    Eigen::Index largest = 0;
    v.cwiseAbs().maxCoeff(&largest);
    result.col(c) = (v * (v[largest] < 0 ? -1.0 : 1.0)).cast<float>();
  }
  return true;
}

bool solve_positive(std::int64_t n, const double* a, double* b) {
  const Eigen::Map<const Eigen::MatrixXd> matrix(a, n, n);
  const Eigen::LLT<Eigen::MatrixXd> llt(matrix);
  if (llt.info() != Eigen::Success) return false;
  Eigen::Map<Eigen::VectorXd> solution(b, n);
  llt.solveInPlace(solution);
  return true;
}

}  // namespace thimble
