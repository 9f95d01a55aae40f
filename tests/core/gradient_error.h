// The error of a gradient as the project promises it: |got - want| / |want| in the 2-norm, per
// tensor.
#pragma once

#include "tests/core/expect_close.h"

namespace thimble {

/// Not finite if a value on either side is not.
inline double relative_norm(const std::vector<double>& got, const std::vector<double>& want) {
  double error = 0, scale = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    scale += want[i] * want[i];
  }
  return error == 0 && std::isfinite(scale) ? 0 : std::sqrt(error / scale);
}

inline double gradient_tolerance(DType dtype) {
  return dtype == DType::kBF16 ? 1e-2 : 1e-5;
}

inline void expect_gradient(const std::vector<double>& got, const std::vector<double>& want,
                            DType dtype, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  const double error = relative_norm(got, want);
  EXPECT_TRUE(error <= gradient_tolerance(dtype)) << what << ": " << error;
}

}  // namespace thimble
