#include "models/export_rows.h"

#include <cstring>

#include "core/base/threads.h"
#include "core/ops/ops.h"

namespace thimble {

void export_rows(const ParamInfo& info, const Tensor& stored, RowRange rows, const Tensor& staging,
                 const Tensor& dst) {
  const auto [begin, end] = rows;
  const KernelTable& table = kernels(stored.device());
  const std::int64_t cols = info.is_matrix() ? info.shape[1] : 1;
  const std::int64_t size = dtype_size(stored.dtype());
  const auto* from = static_cast<const char*>(stored.raw());
  if (!info.transposed()) {
    table.cast(dst.raw(), dst.dtype(), from + begin * cols * size, stored.dtype(),
               (end - begin) * cols);
    return;
  }
  auto* gathered = static_cast<char*>(staging.raw());
  parallel_for_each(end - begin, cols, [&](std::int64_t i) {
    for (std::int64_t c = 0; c < cols; ++c) {
      std::memcpy(gathered + (i * cols + c) * size, from + (c * info.shape[0] + begin + i) * size,
                  static_cast<std::size_t>(size));
    }
  });
  table.cast(dst.raw(), dst.dtype(), gathered, stored.dtype(), (end - begin) * cols);
}

Tensor on_host(Arena& arena, const Tensor& weight) {
  if (arena.is_on_cpu()) return weight;
  Tensor copy = Tensor::empty(arena.pinned(), MemoryTag::kIo, weight.dtype(), weight.shape(),
                              "weight to export");
  ops::to_host(copy.raw(), weight);
  return copy;
}

}  // namespace thimble
