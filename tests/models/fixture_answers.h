// The answers in the fixtures of models, and how far ours are from them.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/io/safetensors.h"
#include "core/nn/batch.h"
#include "core/nn/param.h"

namespace thimble {

inline std::vector<float> read_floats(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr) throw LogicError("fixture has no " + name);
  std::vector<float> values(static_cast<std::size_t>(entry->bytes / 4));
  file.read(*entry, 0, std::as_writable_bytes(std::span(values)));
  return values;
}

// Whole rows as one document each, targets the next token, the last position without loss.
inline Batch rows_batch(const std::vector<std::int32_t>& ids, std::int64_t rows) {
  Batch b;
  b.sequences = rows;
  b.seq_len = static_cast<std::int64_t>(ids.size()) / rows;
  b.tokens = ids;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t t = 0; t < b.seq_len; ++t) {
      const bool last = t + 1 == b.seq_len;
      b.targets.push_back(last ? 0 : ids[static_cast<std::size_t>(r * b.seq_len + t + 1)]);
      b.weights.push_back(last ? 0.0f : 1.0f);
      b.segment_start.push_back(0);
      b.positions.push_back(static_cast<std::int32_t>(t));
    }
  }
  return b;
}

inline double max_relative(const float* got, const std::vector<float>& want) {
  double error = 0, scale = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double d = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    if (!(d <= error)) error = d;  // NaN sticks
    scale = std::max(scale, std::abs(static_cast<double>(want[i])));
  }
  return error / scale;
}

inline double norm_relative(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0, scale = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    error += std::pow(static_cast<double>(got[i]) - static_cast<double>(want[i]), 2);
    scale += std::pow(static_cast<double>(want[i]), 2);
  }
  return std::sqrt(error / scale);
}

// A gradient in storage layout as the logical, row-major values.
inline std::vector<float> logical(const ParamInfo& info, const Tensor& grad) {
  const float* g = grad.data<float>();
  std::vector<float> out(static_cast<std::size_t>(grad.numel()));
  const std::int64_t cols = info.is_matrix() ? info.shape[1] : 1;
  for (std::int64_t r = 0; r < info.shape[0]; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      out[static_cast<std::size_t>(r * cols + c)] =
          info.transposed() ? g[c * info.shape[0] + r] : g[r * cols + c];
    }
  }
  return out;
}

// `count` batches of 4 rows of the numbers that the fixtures' curves are trained on.
inline std::vector<Batch> curve_batches(std::uint32_t lcg, int count, std::uint32_t vocab,
                                        std::int64_t seq_len) {
  std::vector<Batch> batches;
  for (int b = 0; b < count; ++b) {
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < 4 * seq_len; ++i) {
      lcg = lcg * 1664525u + 1013904223u;
      ids.push_back(static_cast<std::int32_t>((lcg >> 16) % vocab));
    }
    batches.push_back(rows_batch(ids, 4));
  }
  return batches;
}

}  // namespace thimble
