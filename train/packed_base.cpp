#include "train/packed_base.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/threads.h"
#include "optim/stored_values.h"

namespace thimble {
namespace {

// A matrix as it was read, by the index of an element of the logical matrix.
struct LogicalValues {
  const float* data;
  std::int64_t rows, cols;
  bool transposed;
  float operator[](std::int64_t i) const {
    return transposed ? data[i % cols * rows + i / cols] : data[i];
  }
  std::int64_t count() const { return rows * cols; }
};

// Elements [begin, begin + n) in `values`; returns their largest magnitude.
float gather_block(const LogicalValues& from, std::int64_t begin, std::int64_t n, float* values) {
  float most = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    values[i] = from[begin + i];
    most = std::max(most, std::abs(values[i]));
  }
  return most;
}

// The nearest of 16 values; of two as near, the smaller one. What is no number gets the first.
unsigned nf4_code(float value) {
  unsigned best = 0;
  float nearest = std::abs(value - kNf4Values[0]);
  for (unsigned c = 1; c < 16; ++c) {
    const float distance = std::abs(value - kNf4Values[c]);
    if (distance < nearest) {
      nearest = distance;
      best = c;
    }
  }
  return best;
}

void pack_scales(const std::vector<float>& scales, const ops::PackedValues& to) {
  const auto count = static_cast<std::int64_t>(scales.size());
  double sum = 0;
  for (const float s : scales) sum += static_cast<double>(s);
  const auto mean = static_cast<float>(sum / static_cast<double>(count));
  const auto& bounds = code_bounds(true);
  auto* codes = to.scales.data<std::uint8_t>();
  auto* second = to.second.data<float>();
  for (std::int64_t begin = 0; begin < count; begin += kNf4Scales) {
    const std::int64_t end = std::min(count, begin + kNf4Scales);
    float most = 0;
    for (std::int64_t i = begin; i < end; ++i)
      most = std::max(most, std::abs(scales[static_cast<std::size_t>(i)] - mean));
    second[begin / kNf4Scales] = most;
    for (std::int64_t i = begin; i < end; ++i) {
      const float part = most > 0 ? (scales[static_cast<std::size_t>(i)] - mean) / most : 0.0f;
      codes[i] = static_cast<std::uint8_t>(std::lower_bound(bounds.begin(), bounds.end(), part) -
                                           bounds.begin());
    }
  }
  second[to.second.numel() - 1] = mean;
}

void pack_nf4(const LogicalValues& from, const ops::PackedValues& to) {
  const std::int64_t count = from.count(), blocks = to.scales.numel();
  std::vector<float> scales(static_cast<std::size_t>(blocks));
  auto* codes = to.codes.data<std::uint8_t>();
  parallel_for_each(blocks, 16 * kNf4Block, [&](std::int64_t b) {
    float values[kNf4Block];
    const std::int64_t begin = b * kNf4Block, n = std::min(kNf4Block, count - begin);
    const float most = gather_block(from, begin, n, values);
    scales[static_cast<std::size_t>(b)] = most;
    const float inverse = 1.0f / most;
    constexpr unsigned kZero = 7;  // half a byte may be left
    const auto code = [&](std::int64_t i) {
      return i < n ? nf4_code(std::clamp(values[i] * inverse, -1.0f, 1.0f)) : kZero;
    };
    for (std::int64_t i = 0; i < n; i += 2)
      codes[(begin + i) / 2] = static_cast<std::uint8_t>(code(i) << 4 | code(i + 1));
  });
  pack_scales(scales, to);
  const auto& table = code_values(true);
  std::copy(table.begin(), table.end(), to.table.data<float>());
}

void pack_int8(const LogicalValues& from, const ops::PackedValues& to) {
  const std::int64_t count = from.count();
  auto* codes = reinterpret_cast<std::int8_t*>(to.codes.data<std::uint8_t>());
  parallel_for_each(to.scales.numel(), 4 * kInt8Group, [&](std::int64_t g) {
    float values[kInt8Group];
    const std::int64_t begin = g * kInt8Group, n = std::min(kInt8Group, count - begin);
    const float scale = gather_block(from, begin, n, values) / 127.0f;
    to.scales.data<float>()[g] = scale;
    for (std::int64_t i = 0; i < n; ++i)
      codes[begin + i] = static_cast<std::int8_t>(scale > 0 ? std::lround(values[i] / scale) : 0);
  });
}

}  // namespace

void load_packed(Arena& arena, const PackedMatrices& matrices, TensorSource& source) {
  Arena& host = arena.pinned();
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const auto& [info, values] = matrices.at(i);
    const Tensor read = Tensor::empty(host, MemoryTag::kIo, DType::kF32, info.storage_shape(),
                                      "matrix to be packed");
    source.read(info, whole_slice(info), read);
    const bool here = arena.is_on_cpu();
    const Tensor table =
        here || !values.table.defined()
            ? values.table
            : Tensor::empty(host, MemoryTag::kIo, DType::kF32, Shape{256}, "codes");
    const ops::PackedValues packed =
        here ? values : ops::empty_packed(host, values.format, info.shape, table, "packed matrix");
    if (arena.device().planning) continue;
    const LogicalValues from{read.data<float>(), values.rows, values.cols, info.transposed()};
    values.format == PackedFormat::kNf4 ? pack_nf4(from, packed) : pack_int8(from, packed);
    if (here) continue;
    for (const auto& [to, with] :
         {std::pair(values.codes, packed.codes), std::pair(values.scales, packed.scales),
          std::pair(values.second, packed.second), std::pair(values.table, packed.table)}) {
      if (to.defined()) ops::from_host(to, with.raw());
    }
  }
}

}  // namespace thimble
