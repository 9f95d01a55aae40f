#include "models/stored_tensor.h"

#include <algorithm>

#include "core/base/text.h"
#include "core/base/threads.h"
#include "core/ops/ops.h"

namespace thimble {
namespace {

constexpr std::int64_t kPieceBytes = 8 * kMiB;

}  // namespace

bool is_readable(const SafetensorsEntry& entry) {
  return entry.dtype == DType::kF32 || entry.dtype == DType::kBF16 || entry.dtype == DType::kF16;
}

std::string dims_text(std::span<const std::int64_t> dims) {
  return fmt::format("[{}]", fmt::join(dims, ", "));
}

void throw_problems(const std::filesystem::path& place, std::vector<std::string> problems) {
  if (problems.empty()) return;
  constexpr std::size_t kShown = 8;
  const std::size_t all = problems.size();
  if (all > kShown) {
    problems.resize(kShown);
    problems.push_back(fmt::format("and {} more", all - kShown));
  }
  throw_user("{}: {}", place.string(), join(problems, "; "));
}

void read_stored(Arena& arena, const StoredRows& from, const ParamInfo& info, Slice slice,
                 const Tensor& dst) {
  const SafetensorsModel::Location& location = from.location;
  const DType dtype = *location.entry->dtype;
  const std::int64_t cols = info.is_matrix() ? info.shape[1] : 1;
  const std::int64_t row_bytes = cols * dtype_size(dtype);
  // Rows of the file that are needed: the slice itself, or every row when the storage is
  // transposed.
  const std::int64_t first = info.transposed() ? 0 : slice.begin;
  const std::int64_t last = info.transposed() ? info.shape[0] : slice.end;
  const std::int64_t step =
      std::clamp<std::int64_t>(kPieceBytes / row_bytes, 1, std::max<std::int64_t>(last - first, 1));
  const Tensor raw = Tensor::empty(arena, MemoryTag::kIo, dtype, Shape{step, cols}, "file rows");
  const Tensor converted = info.transposed() ? Tensor::empty(arena, MemoryTag::kIo, DType::kF32,
                                                             Shape{step, cols}, "file rows")
                                             : Tensor();
  if (arena.device().planning) return;
  float* out = dst.data<float>();
  for (std::int64_t r0 = first; r0 < last; r0 += step) {
    const std::int64_t rows = std::min(step, last - r0);
    location.file->read(
        *location.entry, (from.first_row + r0) * row_bytes,
        {static_cast<std::byte*>(raw.raw()), static_cast<std::size_t>(rows * row_bytes)});
    const KernelTable& table = kernels(dst.device());
    if (!info.transposed()) {
      table.cast(out + (r0 - first) * cols, DType::kF32, raw.raw(), dtype, rows * cols);
      continue;
    }
    float* f = converted.data<float>();
    table.cast(f, DType::kF32, raw.raw(), dtype, rows * cols);
    parallel_for_each(slice.end - slice.begin, rows, [&](std::int64_t i) {
      const std::int64_t c = slice.begin + i;
      for (std::int64_t r = 0; r < rows; ++r) out[i * info.shape[0] + r0 + r] = f[r * cols + c];
    });
  }
}

}  // namespace thimble
