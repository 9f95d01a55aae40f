// What tests of conversions compare: the values of arrays, and whole images.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <vector>

#include "launcher/convert/checkpoint_image.h"

namespace thimble::testing {

inline const std::filesystem::path kCheckpoints = "tests/fixtures/checkpoints";

inline std::vector<float> values(const StoredArray& array, std::int64_t window_bytes = 1000) {
  const StoredArray wide = as_dtype(array, DType::kF32);
  std::vector<float> out(static_cast<std::size_t>(wide.numel()));
  for_rows(wide, window_bytes, [&](std::int64_t first, std::int64_t count) {
    wide.reader->read(first, std::as_writable_bytes(std::span(out))
                                 .subspan(static_cast<std::size_t>(first) * 4,
                                          static_cast<std::size_t>(count) * 4));
  });
  return out;
}

/// How far the values are from each other at most; NaN if one is.
inline float distance(const StoredArray& a, const StoredArray& b) {
  const std::vector<float> x = values(a), y = values(b, 1 << 20);
  if (a.shape != b.shape || x.size() != y.size()) return NAN;
  float most = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float d = std::abs(x[i] - y[i]);
    most = d <= most ? most : d;
  }
  return most;
}

inline void expect_same(const CheckpointImage& a, const CheckpointImage& b, float tolerance) {
  ASSERT_EQ(a.params.size(), b.params.size());
  ASSERT_TRUE(a.has_state());
  ASSERT_TRUE(b.has_state());
  EXPECT_EQ(a.step, b.step);
  for (const auto& [name, param] : a.params) {
    ASSERT_TRUE(b.params.contains(name)) << name;
    const ImageParam& other = b.params.at(name);
    EXPECT_LE(distance(param.best(), other.best()), tolerance) << name;
    EXPECT_LE(distance(*param.exp_avg, *other.exp_avg), tolerance) << name;
    EXPECT_LE(distance(*param.exp_avg_sq, *other.exp_avg_sq), tolerance) << name;
  }
}

}  // namespace thimble::testing
