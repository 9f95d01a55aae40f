#include "models/adapter_source.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/base/random.h"
#include "core/base/text.h"
#include "core/base/threads.h"
#include "core/ops/adapter_ops.h"
#include "models/stored_tensor.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kAdapterPrefix = "base_model.model.";

bool has_shape_of(const SafetensorsEntry& entry, const ParamInfo& info) {
  std::vector<std::int64_t> found = entry.shape;
  const std::vector<std::int64_t> wanted(info.shape.dims().begin(), info.shape.dims().end());
  if (!info.is_matrix()) std::erase(found, 1);  // the vectors of IA3 are [n, 1] or [1, n]
  return found == wanted || (wanted == std::vector<std::int64_t>{1} && found.empty());
}

// An older spelling of the same, or the name itself.
const SafetensorsEntry* find_adapter_tensor(const SafetensorsFile& file, std::string_view param) {
  const std::string name = adapter_tensor_name(param);
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr) entry = file.find(name + ".weight");
  return entry;
}

}  // namespace

std::string adapter_tensor_name(std::string_view param) {
  // What all layers share has no module.
  const bool shared = param.find('.') == std::string_view::npos;
  return (shared ? "base_model." : std::string(kAdapterPrefix)) + std::string(param);
}

AdapterFileConfig open_adapter_config(const fs::path& directory) {
  AdapterFileConfig config = load_adapter_config(directory);
  if (!config.adapter.target_modules.empty()) return config;
  const SafetensorsFile file = SafetensorsFile::open(directory / kAdapterFileName);
  std::set<std::string> modules;
  for (const SafetensorsEntry& entry : file.entries()) {
    for (const std::string_view suffix : {".lora_A.weight", ".ia3_l", ".vera_lambda_b"}) {
      std::string_view name = entry.name;
      if (!name.starts_with(kAdapterPrefix) || !name.ends_with(suffix)) continue;
      name.remove_prefix(kAdapterPrefix.size());
      name.remove_suffix(suffix.size());
      modules.emplace(name);
    }
  }
  if (modules.empty())
    throw_user("{}: it has no tensors of an adapter", (directory / kAdapterFileName).string());
  config.adapter.target_modules = {modules.begin(), modules.end()};
  return config;
}

AdapterSource::AdapterSource(Arena& arena, const Transformer& model,
                             std::unique_ptr<TensorSource> base, const AdapterStart& start,
                             PrincipalParts principal)
    : arena_(arena),
      model_(model),
      base_(std::move(base)),
      start_(start),
      make_principal_(std::move(principal)) {
  const auto place = [&](const AdaptedMatrix& matrix, Weight weight, Part part) {
    if (weight.exists()) places_[model.params().info(weight.id).name] = {&matrix, part};
  };
  for (const AdaptedMatrix& matrix : model.adapters().matrices()) {
    const LinearAdapter& adapter = matrix.adapter;
    place(matrix, adapter.a, Part::kA);
    place(matrix, adapter.b, Part::kB);
    place(matrix, matrix.first_a, Part::kA);
    place(matrix, matrix.first_b, Part::kB);
    place(matrix, adapter.magnitude, Part::kMagnitude);
    place(matrix, adapter.inner, Part::kInner);
    place(matrix, adapter.outer, Part::kOuter);
    place(matrix, adapter.input_scale, Part::kScale);
    place(matrix, adapter.output_scale, Part::kScale);
  }
  if (!start_.directory.empty()) open(start_.directory);
}

void AdapterSource::open(const fs::path& directory) {
  const fs::path path = directory / kAdapterFileName;
  file_ = std::make_unique<SafetensorsFile>(SafetensorsFile::open(path));
  std::vector<std::string> problems;
  std::set<std::string> known;
  for (const ParamId id : model_.params().ids()) {
    const ParamInfo& info = model_.params().info(id);
    if (!places_.contains(info.name) && !info.trainable) continue;
    const SafetensorsEntry* entry = find_adapter_tensor(*file_, info.name);
    if (entry == nullptr) {
      problems.push_back(fmt::format("tensor {} is missing", adapter_tensor_name(info.name)));
      continue;
    }
    known.insert(entry->name);
    if (!has_shape_of(*entry, info)) {
      problems.push_back(fmt::format("tensor {} is {}, this model asks for {}", entry->name,
                                     dims_text(entry->shape), dims_text(info.shape.dims())));
    } else if (!is_readable(*entry)) {
      problems.push_back(
          fmt::format("tensor {} is {}; allowed F32, BF16, F16", entry->name, entry->dtype_text));
    }
  }
  for (const SafetensorsEntry& entry : file_->entries()) {
    if (!known.contains(entry.name))
      problems.push_back(
          fmt::format("tensor {} is not part of this model's adapter", printable(entry.name)));
  }
  throw_problems(path, std::move(problems));
}

void AdapterSource::read(const ParamInfo& info, Slice slice, const Tensor& dst) {
  const auto place = places_.find(info.name);
  const bool is_adapter = place != places_.end();
  if (file_ != nullptr && (is_adapter || info.trainable)) {
    const SafetensorsEntry* entry = find_adapter_tensor(*file_, info.name);
    TH_CHECK(entry != nullptr, "{}", info.name);
    return read_stored(arena_, {file_.get(), entry}, info, slice, dst);
  }
  if (is_adapter) return begin(place->second, info, slice, dst);
  read_base(info, slice, dst);
}

// The model's own weights, without what a start from the largest singular values takes of them.
void AdapterSource::read_base(const ParamInfo& info, Slice slice, const Tensor& dst) {
  base_->read(info, slice, dst);
  const AdaptedMatrix* matrix = model_.adapters().find(info.name);
  if (matrix == nullptr || !matrix->first_a.exists()) return;
  const auto& [a, b] = principal_of(*matrix);
  const Tensor rows = rows_of_slice(info, slice, dst);
  const Tensor less =
      Tensor::empty(arena_, MemoryTag::kIo, DType::kF32, b.shape(), "scaled matrix");
  ops::scale_columns(less, b, {.scale = -matrix->adapter.scale});
  if (info.transposed()) {
    ops::matmul(arena_, {a.columns(slice.begin, slice.end), true}, {less, true}, rows,
                {.accumulate = true});
  } else {
    ops::matmul(arena_, {less.rows(slice.begin, slice.end)}, {a}, rows, {.accumulate = true});
  }
}

const LowRankFactors& AdapterSource::principal_of(const AdaptedMatrix& matrix) {
  LowRankFactors& parts = principal_[&matrix];
  if (parts.a.defined()) return parts;
  const ParamInfo& info = matrix.info;
  const auto make = [&](const Shape& shape, const char* what) {
    return Tensor::empty(arena_, MemoryTag::kIo, DType::kF32, shape, what);
  };
  parts.a = make(model_.params().info(matrix.adapter.a.id).shape, "start of an adapter");
  parts.b = make(model_.params().info(matrix.adapter.b.id).shape, "start of an adapter");
  const Tensor weight = make(info.storage_shape(), "weight to be decomposed");
  base_->read(info, whole_slice(info), weight);
  TH_CHECK(static_cast<bool>(make_principal_));
  make_principal_(arena_, info, weight, static_cast<double>(matrix.adapter.scale), parts);
  // The model computes with rounded values, and the weight lacks exactly these.
  for (const Tensor& part : {parts.a, parts.b}) {
    if (start_.dtype != DType::kBF16) break;
    const Tensor rounded =
        Tensor::empty(arena_, MemoryTag::kIo, DType::kBF16, part.shape(), "start of an adapter");
    ops::cast(rounded, part);
    ops::cast(part, rounded);
  }
  return parts;
}

void AdapterSource::begin(const Place& place, const ParamInfo& info, Slice slice,
                          const Tensor& dst) {
  if (place.part == Part::kMagnitude) return lengths(*place.matrix, slice, dst);
  if (place.matrix->first_a.exists()) {
    const auto& [a, b] = principal_of(*place.matrix);
    if (dst.device().planning) return;
    const Tensor& whole = place.part == Part::kA ? a : b;
    const std::int64_t cols = info.shape[1];
    const float* from = whole.data<float>();
    float* out = dst.data<float>();
    for (std::int64_t r = slice.begin; r < slice.end; ++r) {
      const std::int64_t width = info.storage_shape()[1];
      for (std::int64_t c = 0; c < width; ++c)
        out[(r - slice.begin) * width + c] =
            info.transposed() ? from[c * cols + r] : from[r * cols + c];
    }
    return;
  }
  if (dst.device().planning) return;
  const bool is_shared = place.matrix->adapter.inner.exists();
  if (place.part == Part::kA || (is_shared && place.part == Part::kB))
    return draw(info, slice, dst);
  const std::int64_t width = info.is_matrix() ? info.storage_shape()[1] : 1;
  float* out = dst.data<float>();
  constexpr float kFirstInner = 0.1f;
  const float value = place.part == Part::kScale   ? 1.0f
                      : place.part == Part::kInner ? kFirstInner
                                                   : 0.0f;
  std::fill(out, out + slice.rows() * width, value);
}

// Values that depend on the seed, the name and the element's logical index alone.
void AdapterSource::draw(const ParamInfo& info, Slice slice, const Tensor& dst) const {
  const CounterRandom random(start_.seed, RandomPurpose::kInit, hash_name(info.name));
  const AdapterConfig& config = model_.adapters().config();
  const bool normal = config.init == AdapterInit::kGaussian;
  // The uniform distributions are those of torch's linear layers, and of VeRA's Kaiming start.
  const double square =
      (config.kind == AdapterKind::kVera ? 6.0 : 1.0) / static_cast<double>(info.shape[1]);
  const auto bound =
      static_cast<float>(normal ? 1.0 / static_cast<double>(info.shape[0]) : std::sqrt(square));
  const std::int64_t width = info.storage_shape()[1], cols = info.shape[1];
  float* out = dst.data<float>();
  for (std::int64_t r = slice.begin; r < slice.end; ++r) {
    for (std::int64_t c = 0; c < width; ++c) {
      const auto index =
          static_cast<std::uint64_t>(info.transposed() ? c * cols + r : r * cols + c);
      const float value = normal ? random.normal(index) : 2 * random.uniform(index) - 1;
      out[(r - slice.begin) * width + c] = bound * value;
    }
  }
}

// The length of each row of the matrix, which is that with the update: at the start they are the
// same.
void AdapterSource::lengths(const AdaptedMatrix& matrix, Slice slice, const Tensor& dst) {
  const ParamInfo& info = matrix.info;
  const std::int64_t rows = info.storage_shape()[0], width = info.storage_shape()[1];
  const std::int64_t step = std::clamp<std::int64_t>(kMeasuredElements / width, 1, rows);
  const Tensor squares =
      Tensor::empty(arena_, MemoryTag::kIo, DType::kF32, Shape{info.shape[0]}, "squares of rows");
  const Tensor piece =
      Tensor::empty(arena_, MemoryTag::kIo, DType::kF32, Shape{step, width}, "rows of a weight");
  for (std::int64_t begin = 0; begin < rows; begin += step) {
    const std::int64_t end = std::min(rows, begin + step);
    const Tensor part = piece.rows(0, end - begin);
    base_->read(info, {begin, end}, part);
    if (info.transposed()) {
      ops::column_dots(arena_, squares, {.a = part, .b = part, .accumulate = begin > 0});
    } else {
      ops::squares_of_rows(squares.rows(begin, end), part);
    }
  }
  if (dst.device().planning) return;
  for (std::int64_t i = slice.begin; i < slice.end; ++i)
    dst.data<float>()[i - slice.begin] = std::sqrt(squares.data<float>()[i]);
}

}  // namespace thimble
