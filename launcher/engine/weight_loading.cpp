#include "launcher/engine/weight_loading.h"

#include <algorithm>

#include "core/ops/ops.h"
#include "optim/stored_values.h"
#include "parallel/quantised_store.h"

namespace thimble {
namespace {

constexpr std::int64_t kLoadStagingBytes = 16 * kMiB;

// Gives body(begin, end, rows as f32 on the arena's device) the rows of a source in pieces of about
// kLoadStagingBytes and of whole granules.
template <typename Body>
void for_pieces(Arena& arena, const ParamInfo& info, Slice rows, TensorSource& source,
                std::int64_t granule, Body&& body) {
  const std::int64_t width = info.is_matrix() ? info.storage_shape()[1] : 1;
  const std::int64_t step = std::min(
      rows.rows(), std::max<std::int64_t>(1, kLoadStagingBytes / (4 * width * granule)) * granule);
  const auto staging = [&](Arena& where) {
    return Tensor::empty(where, MemoryTag::kIo, DType::kF32, Shape{step * width},
                         "weights being loaded");
  };
  const Tensor read = staging(arena.host());
  const Tensor moved = arena.is_on_host() ? read : staging(arena);
  for (std::int64_t r = 0; r < rows.rows(); r += step) {
    const std::int64_t end = std::min(rows.rows(), r + step), count = (end - r) * width;
    source.read(info, {rows.begin + r, rows.begin + end}, read);
    const Tensor piece = moved.rows(0, count);
    if (!arena.is_on_host()) ops::from_host(piece, read.raw());
    body(r, end, piece);
  }
}

}  // namespace

void load_rows(Arena& arena, const ParamInfo& info, Slice rows, TensorSource& source,
               const Tensor& weight, const Tensor& remainder) {
  if (rows.rows() == 0) return;
  if (weight.dtype() == DType::kF32 && arena.is_on_host()) {
    source.read(info, rows, weight);
    return;
  }
  for_pieces(arena, info, rows, source, 1,
             [&](std::int64_t begin, std::int64_t end, const Tensor& read) {
               const Tensor part = weight.rows(begin, end), values = read.view(part.shape());
               if (remainder.defined()) {
                 split_weight(part, remainder.rows(begin, end), values);
               } else {
                 ops::cast(part, values);
               }
             });
}

void load_int8(Arena& arena, const ParamInfo& info, Slice rows, TensorSource& source,
               const Tensor& codes, const Tensor& scales) {
  if (rows.rows() == 0) return;
  for_pieces(arena, info, rows, source, int8_granule_rows(info),
             [&](std::int64_t begin, std::int64_t end, const Tensor& read) {
               const Slice groups = int8_scales(info, {begin, end});
               const Tensor part = codes.rows(begin, end);
               ops::quantize(part, scales.rows(groups.begin, groups.end), read.view(part.shape()));
             });
}

void load_weights(Arena& arena, const TrainableModel& model, ResidentParamStore& store,
                  TensorSource& source) {
  for (const ParamId id : model.params().ids()) {
    const ParamInfo& info = model.params().info(id);
    load_rows(arena, info, whole_slice(info), source, store.writable(id));
    store.changed(id);
  }
}

}  // namespace thimble
