// Comparisons that NaN cannot pass, and random inputs.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/random.h"
#include "core/ops/ops.h"

namespace thimble {

/// max|got - want| <= tolerance * max|want|; a non-finite value on either side fails.
inline void expect_close(const std::vector<double>& got, const std::vector<double>& want,
                         double tolerance, const char* what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  double worst = 0, scale = 1e-30;
  std::size_t not_finite = 0, at = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i]) || !std::isfinite(want[i])) ++not_finite;
    scale = std::max(scale, std::abs(want[i]));
    const double d = std::abs(got[i] - want[i]);
    if (!(d <= worst)) {
      worst = d;
      at = i;
    }
  }
  EXPECT_EQ(not_finite, 0u) << what;
  EXPECT_TRUE(worst <= tolerance * scale)
      << what << ": " << worst / scale << " > " << tolerance << " at " << at << " (" << got[at]
      << " for " << want[at] << ")";
}

inline std::vector<double> values_of(const Tensor& t) {
  std::vector<double> out(static_cast<std::size_t>(t.numel()));
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    out[static_cast<std::size_t>(i)] = t.dtype() == DType::kBF16
                                           ? to_float(t.data<BF16>()[i])
                                           : static_cast<double>(t.data<float>()[i]);
  }
  return out;
}

/// Normal values of the given size, rounded to dtype.
inline Tensor random_tensor(Arena& arena, DType dtype, const Shape& shape, std::uint64_t seed,
                            float size = 1) {
  const Tensor t = Tensor::empty(arena, MemoryTag::kActivations, dtype, shape);
  const CounterRandom random(seed, RandomPurpose::kSampling);
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    const float x = size * random.normal(static_cast<std::uint64_t>(i));
    if (dtype == DType::kBF16) {
      t.data<BF16>()[i] = to_bf16(x);
    } else {
      t.data<float>()[i] = x;
    }
  }
  return t;
}

/// Rounding error of one result of a sum of matmuls in this dtype.
inline double tolerance_of(DType dtype) {
  return dtype == DType::kBF16 ? 1.2e-2 : 1e-5;
}

}  // namespace thimble
