#include <algorithm>

#include "core/base/random.h"
#include "core/base/threads.h"
#include "models/weight_sources.h"

namespace thimble {

void InitSource::read(const ParamInfo& info, Slice slice, const Tensor& dst) {
  if (dst.device().planning) return;
  float* out = dst.data<float>();
  const std::int64_t width = info.is_matrix() ? info.storage_shape()[1] : 1;
  const std::int64_t n = slice.rows() * width;
  if (info.role == ParamRole::kNorm || info.role == ParamRole::kBias) {
    std::fill(out, out + n, info.role == ParamRole::kNorm ? norm_ : 0.0f);
    return;
  }
  const CounterRandom random(seed_, RandomPurpose::kInit, hash_name(info.name));
  const auto std = static_cast<float>(std_);
  const bool transposed = info.transposed();
  const std::int64_t logical_cols = info.shape[1];
  constexpr std::int64_t kNormalCost = 16;  // drawing a value beside writing it
  parallel_for_each(slice.end - slice.begin, width * kNormalCost, [&](std::int64_t i) {
    const std::int64_t r = slice.begin + i;
    for (std::int64_t c = 0; c < width; ++c) {
      const std::int64_t index = transposed ? c * logical_cols + r : r * logical_cols + c;
      out[i * width + c] = std * random.normal(static_cast<std::uint64_t>(index));
    }
  });
}

}  // namespace thimble
