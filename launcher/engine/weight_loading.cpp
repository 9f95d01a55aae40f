#include "launcher/engine/weight_loading.h"

#include <algorithm>

#include "core/ops/ops.h"
#include "optim/stored_values.h"
#include "parallel/quantised_store.h"

namespace thimble {
namespace {

constexpr std::int64_t kLoadStagingBytes = 16 * kMiB;

}  // namespace

void load_rows(Arena& arena, const ParamInfo& info, Slice rows, TensorSource& source,
               const Tensor& weight, const Tensor& remainder) {
  if (rows.rows() == 0) return;
  if (weight.dtype() == DType::kF32) {
    source.read(info, rows, weight);
    return;
  }
  const std::int64_t width = info.is_matrix() ? info.storage_shape()[1] : 1;
  const std::int64_t step =
      std::clamp<std::int64_t>(kLoadStagingBytes / (4 * width), 1, rows.rows());
  const Tensor staging = Tensor::empty(arena, MemoryTag::kIo, DType::kF32, Shape{step * width},
                                       "weights being loaded");
  for (std::int64_t r = 0; r < rows.rows(); r += step) {
    const std::int64_t end = std::min(rows.rows(), r + step);
    source.read(info, {rows.begin + r, rows.begin + end}, staging);
    const Tensor part = weight.rows(r, end);
    const Tensor read = staging.rows(0, (end - r) * width).view(part.shape());
    if (remainder.defined()) {
      split_weight(part, remainder.rows(r, end), read);
    } else {
      ops::cast(part, read);
    }
  }
}

void load_int8(Arena& arena, const ParamInfo& info, Slice rows, TensorSource& source,
               const Tensor& codes, const Tensor& scales) {
  if (rows.rows() == 0) return;
  const std::int64_t width = info.storage_shape()[1], granule = int8_granule_rows(info);
  const std::int64_t step = std::min(
      rows.rows(), std::max<std::int64_t>(1, kLoadStagingBytes / (4 * width * granule)) * granule);
  const Tensor staging = Tensor::empty(arena, MemoryTag::kIo, DType::kF32, Shape{step * width},
                                       "weights being loaded");
  for (std::int64_t r = 0; r < rows.rows(); r += step) {
    const std::int64_t end = std::min(rows.rows(), r + step);
    source.read(info, {rows.begin + r, rows.begin + end}, staging);
    const Slice groups = int8_scales(info, {r, end});
    const Tensor part = codes.rows(r, end);
    ops::quantize(part, scales.rows(groups.begin, groups.end),
                  staging.rows(0, (end - r) * width).view(part.shape()));
  }
}

void load_weights(Arena& arena, const Transformer& model, ResidentParamStore& store,
                  TensorSource& source) {
  for (const ParamId id : model.params().ids()) {
    const ParamInfo& info = model.params().info(id);
    load_rows(arena, info, whole_slice(info), source, store.writable(id));
    store.changed(id);
  }
}

}  // namespace thimble
