#include <algorithm>

#include "core/base/text.h"
#include "core/base/threads.h"
#include "core/ops/ops.h"
#include "models/weight_sources.h"

namespace thimble {
namespace {

constexpr std::int64_t kStagingBytes = 8 * kMiB;

bool is_ignored(const std::string& name, const ParamTable& params) {
  if (name.ends_with("rotary_emb.inv_freq")) return true;
  return name == "lm_head.weight" && !params.find(name);
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

void check_tensors(const SafetensorsModel& model, const ParamTable& params,
                   const std::filesystem::path& directory,
                   const std::function<void(const std::string&)>& note) {
  std::vector<std::string> problems;
  for (const ParamId id : params.ids()) {
    const ParamInfo& info = params.info(id);
    const auto found = model.find(info.name);
    const std::vector<std::int64_t> wanted(info.shape.dims().begin(), info.shape.dims().end());
    if (found.entry == nullptr) {
      problems.push_back(fmt::format("tensor {} is missing", info.name));
    } else if (found.entry->shape != wanted) {
      problems.push_back(fmt::format("tensor {} is {}, config.json asks for {}", info.name,
                                     shape_text(found.entry->shape), shape_text(wanted)));
    } else if (!found.entry->dtype || dtype_size(*found.entry->dtype) < 2 ||
               *found.entry->dtype == DType::kI32) {
      problems.push_back(fmt::format("tensor {} is {}; allowed F32, BF16, F16", info.name,
                                     found.entry->dtype_text));
    }
  }
  for (const auto& [name, location] : model.tensors()) {
    if (params.find(name)) continue;
    if (is_ignored(name, params)) {
      note(fmt::format("{}: tensor {} is not used", directory.string(), name));
    } else {
      problems.push_back(fmt::format("tensor {} is not part of this model", printable(name)));
    }
  }
  if (problems.empty()) return;
  constexpr std::size_t kShown = 8;
  const std::size_t all = problems.size();
  if (all > kShown) {
    problems.resize(kShown);
    problems.push_back(fmt::format("and {} more", all - kShown));
  }
  throw_user("{}: {}", directory.string(), join(problems, "; "));
}

}  // namespace

HfSource::HfSource(Arena& arena, const std::filesystem::path& directory, const ParamTable& params,
                   const std::function<void(const std::string&)>& note)
    : arena_(arena), directory_(directory), model_(SafetensorsModel::open(directory)) {
  check_tensors(model_, params, directory, note);
}

void HfSource::read(const ParamInfo& info, Slice slice, const Tensor& dst) {
  const auto location = model_.find(info.name);
  TH_CHECK(location.entry != nullptr, "{}", info.name);
  const DType dtype = *location.entry->dtype;
  const std::int64_t cols = info.is_matrix() ? info.shape[1] : 1;
  const std::int64_t row_bytes = cols * dtype_size(dtype);
  // Rows of the file that are needed: the slice itself, or every row when the storage is
  // transposed.
  const std::int64_t first = info.transposed() ? 0 : slice.begin;
  const std::int64_t last = info.transposed() ? info.shape[0] : slice.end;
  const std::int64_t step = std::clamp<std::int64_t>(kStagingBytes / row_bytes, 1,
                                                     std::max<std::int64_t>(last - first, 1));
  const Tensor raw = Tensor::empty(arena_, MemoryTag::kIo, dtype, Shape{step, cols}, "file rows");
  const Tensor converted = info.transposed() ? Tensor::empty(arena_, MemoryTag::kIo, DType::kF32,
                                                             Shape{step, cols}, "file rows")
                                             : Tensor();
  if (arena_.device().planning) return;
  float* out = dst.data<float>();
  for (std::int64_t r0 = first; r0 < last; r0 += step) {
    const std::int64_t rows = std::min(step, last - r0);
    location.file->read(
        *location.entry, r0 * row_bytes,
        {static_cast<std::byte*>(raw.raw()), static_cast<std::size_t>(rows * row_bytes)});
    const KernelTable& table = kernels(dst.device());
    if (!info.transposed()) {
      table.cast(out + (r0 - first) * cols, DType::kF32, raw.raw(), dtype, rows * cols);
      continue;
    }
    float* f = converted.data<float>();
    table.cast(f, DType::kF32, raw.raw(), dtype, rows * cols);
#pragma omp parallel for schedule(static) if (is_team_work(rows * cols))
    for (std::int64_t c = slice.begin; c < slice.end; ++c) {
      for (std::int64_t r = 0; r < rows; ++r)
        out[(c - slice.begin) * info.shape[0] + r0 + r] = f[r * cols + c];
    }
  }
}

}  // namespace thimble
