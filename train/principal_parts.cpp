#include "train/principal_parts.h"

#include <algorithm>
#include <cmath>

#include "core/base/random.h"
#include "core/ops/ops.h"
#include "optim/low_rank.h"

namespace thimble {
namespace {

constexpr std::int64_t kExactWidth = 512, kMoreColumns = 16;
constexpr int kPowerIterations = 16;

Tensor scratch(Arena& arena, std::int64_t rows, std::int64_t cols) {
  return Tensor::empty(arena, MemoryTag::kWorkspace, DType::kF32, Shape{rows, cols},
                       "singular values");
}

// An orthonormal basis [width, columns] that holds the right singular vectors of the largest
// singular values of m.
Tensor find_basis(Arena& arena, const Tensor& m, std::int64_t columns) {
  const std::int64_t width = m.dim(1);
  const Tensor basis = scratch(arena, width, columns);
  const bool exact = columns == width, planning = m.device().planning;
  const CounterRandom random(0, RandomPurpose::kProjection, hash_name("singular values"));
  for (std::int64_t i = 0; !planning && i < basis.numel(); ++i) {
    basis.data<float>()[i] = exact ? (i / columns == i % columns ? 1.0f : 0.0f)
                                   : random.normal(static_cast<std::uint64_t>(i));
  }
  const Tensor images = scratch(arena, m.dim(0), columns);
  for (int i = 0; !exact && i < kPowerIterations; ++i) {
    ops::matmul(arena, {m}, {basis}, images);
    ops::matmul(arena, {m, true}, {images}, basis);
    if (!orthonormalise(arena, basis) && !planning) break;
  }
  return basis;
}

}  // namespace

void principal_parts(Arena& arena, const ParamInfo& info, const Tensor& weight, double scale,
                     const LowRankFactors& factors) {
  const auto& [a, b] = factors;
  const std::int64_t length = weight.dim(0), width = weight.dim(1), rank = a.dim(0);
  const std::int64_t columns = width <= kExactWidth ? width : std::min(width, rank + kMoreColumns);
  const Tensor basis = find_basis(arena, weight, columns);
  const Tensor images = scratch(arena, length, columns), gram = scratch(arena, columns, columns),
               vectors = scratch(arena, columns, rank), left = scratch(arena, length, rank),
               right = scratch(arena, width, rank);
  ops::matmul(arena, {weight}, {basis}, images);
  ops::matmul(arena, {images, true}, {images}, gram);
  ops::zero(vectors);
  if (!gram.device().planning)
    largest_eigenvectors(gram.data<float>(), columns, rank, vectors.data<float>());
  ops::matmul(arena, {images}, {vectors}, left);
  ops::matmul(arena, {basis}, {vectors}, right);
  if (gram.device().planning) return;
  const Tensor& outputs = info.transposed() ? right : left;
  const Tensor& inputs = info.transposed() ? left : right;
  for (std::int64_t c = 0; c < rank; ++c) {
    double square = 0;
    for (std::int64_t i = 0; i < length; ++i)
      square += std::pow(static_cast<double>(left.data<float>()[i * rank + c]), 2);
    const double value = std::sqrt(square), share = std::sqrt(value / scale);
    // `left` has the singular value in it already.
    const auto with = static_cast<float>(value > 0 ? share / value : 0),
               without = static_cast<float>(share);
    const float of_outputs = info.transposed() ? without : with,
                of_inputs = info.transposed() ? with : without;
    for (std::int64_t o = 0; o < b.dim(0); ++o)
      b.data<float>()[o * rank + c] = of_outputs * outputs.data<float>()[o * rank + c];
    for (std::int64_t i = 0; i < a.dim(1); ++i)
      a.data<float>()[c * a.dim(1) + i] = of_inputs * inputs.data<float>()[i * rank + c];
  }
}

}  // namespace thimble
