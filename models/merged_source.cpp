#include "models/merged_source.h"

#include <algorithm>

#include "core/base/threads.h"
#include "core/ops/adapter_ops.h"

namespace thimble {
namespace {

bool is_plain_lora(const AdapterConfig& config) {
  return config.kind == AdapterKind::kLora && !config.dora && config.modules_to_save.empty();
}

}  // namespace

MergedSource::MergedSource(Arena& arena, const ModelConfig& config,
                           std::unique_ptr<TensorSource> base,
                           const std::vector<MergedAdapter>& adapters)
    : arena_(arena), base_(std::move(base)) {
  for (const MergedAdapter& from : adapters) {
    const AdapterConfig adapter = open_adapter_config(from.directory).adapter;
    if (!is_plain_lora(adapter) && (adapters.size() > 1 || from.weight != 1)) {
      throw_user(
          "{}: several adapters, or one with a weight, have to be LoRA without DoRA and "
          "modules_to_save",
          from.directory.string());
    }
    Part part{.from = from, .model = nullptr, .source = nullptr};
    try {
      part.model = std::make_unique<Transformer>(config, adapter);
    } catch (const UserError& e) {
      throw_user("{}: not an adapter of this model: {}", from.directory.string(), e.what());
    }
    part.source = std::make_unique<AdapterSource>(arena, *part.model, nullptr,
                                                  AdapterStart{.directory = from.directory});
    parts_.push_back(std::move(part));
  }
}

void MergedSource::read(const ParamInfo& info, Slice slice, const Tensor& dst) {
  for (Part& part : parts_) {
    const ParamTable& params = part.model->params();
    const std::optional<ParamId> id = params.find(info.name);
    TH_CHECK(id.has_value(), "{}", info.name);
    if (params.info(*id).trainable) return part.source->read(params.info(*id), slice, dst);
  }
  base_->read(info, slice, dst);
  const Tensor rows = rows_of_slice(info, slice, dst);
  for (Part& part : parts_) {
    if (info.role == ParamRole::kBias) scale_bias(part, info, slice, rows);
    const AdaptedMatrix* matrix = part.model->adapters().find(info.name);
    if (matrix == nullptr) continue;
    Change& change = change_of(part, *matrix);
    if (change.magnitude.defined() && !change.squares.defined()) measure(change, info);
    apply(change, info, slice, rows);
  }
}

// A scale of outputs is one of the bias too.
void MergedSource::scale_bias(Part& part, const ParamInfo& info, Slice slice, const Tensor& rows) {
  const AdaptedMatrix* matrix = part.model->adapters().find(module_of(info.name) + ".weight");
  if (matrix == nullptr || !matrix->adapter.output_scale.exists()) return;
  const Tensor scale = load(part, matrix->adapter.output_scale);
  if (rows.device().planning) return;
  for (std::int64_t i = slice.begin; i < slice.end; ++i)
    rows.data<float>()[i - slice.begin] *= scale.data<float>()[i];
}

// The parameter in its logical layout.
Tensor MergedSource::load(Part& part, Weight weight) {
  const ParamInfo& info = part.model->params().info(weight.id);
  const Tensor stored = Tensor::empty(arena_, MemoryTag::kWeights, DType::kF32,
                                      info.storage_shape(), "adapter to be merged");
  part.source->read(info, whole_slice(info), stored);
  if (!info.transposed()) return stored;
  Tensor logical =
      Tensor::empty(arena_, MemoryTag::kWeights, DType::kF32, info.shape, "adapter to be merged");
  ops::transpose(logical, stored);
  return logical;
}

MergedSource::Change& MergedSource::change_of(Part& part, const AdaptedMatrix& matrix) {
  Change& change = changes_[&matrix];
  const LinearAdapter& adapter = matrix.adapter;
  if (change.b.defined() || change.input_scale.defined() || change.output_scale.defined())
    return change;
  if (adapter.input_scale.exists()) change.input_scale = load(part, adapter.input_scale);
  if (adapter.output_scale.exists()) change.output_scale = load(part, adapter.output_scale);
  if (!adapter.a.exists()) return change;
  if (adapter.inner.exists()) {
    load_shared(part, matrix, change);
    return change;
  }
  change.a = load(part, adapter.a);
  change.b = load(part, adapter.b);
  const double scale = static_cast<double>(adapter.scale) * part.from.weight;
  ops::scale_columns(change.b, change.b, {.scale = static_cast<float>(scale)});
  if (adapter.magnitude.exists()) change.magnitude = load(part, adapter.magnitude);
  return change;
}

// The first columns and rows of what all layers share, scaled as this matrix does.
void MergedSource::load_shared(Part& part, const AdaptedMatrix& matrix, Change& change) {
  const Tensor a = load(part, matrix.adapter.a), b = load(part, matrix.adapter.b),
               inner = load(part, matrix.adapter.inner), outer = load(part, matrix.adapter.outer);
  const std::int64_t rank = inner.numel(), out = matrix.info.shape[0], in = matrix.info.shape[1];
  const auto make = [&](const Shape& shape) {
    return Tensor::empty(arena_, MemoryTag::kWeights, DType::kF32, shape, "adapter to be merged");
  };
  change.a = make(Shape{rank, in});
  change.b = make(Shape{out, rank});
  if (change.a.device().planning) return;
  for (std::int64_t r = 0; r < rank; ++r) {
    for (std::int64_t c = 0; c < in; ++c)
      change.a.data<float>()[r * in + c] =
          inner.data<float>()[r] * a.data<float>()[r * a.dim(1) + c];
  }
  for (std::int64_t o = 0; o < out; ++o) {
    for (std::int64_t r = 0; r < rank; ++r)
      change.b.data<float>()[o * rank + r] = outer.data<float>()[o] * b.data<float>()[o * rank + r];
  }
}

// The squares of the lengths of the rows of the matrix with its update.
void MergedSource::measure(Change& change, const ParamInfo& info) {
  const std::int64_t rows = info.storage_shape()[0], width = info.storage_shape()[1];
  const std::int64_t step = std::clamp<std::int64_t>(kMeasuredElements / width, 1, rows);
  const Tensor squares = Tensor::empty(arena_, MemoryTag::kWeights, DType::kF32,
                                       Shape{info.shape[0]}, "squares of rows");
  const Tensor piece =
      Tensor::empty(arena_, MemoryTag::kIo, DType::kF32, Shape{step, width}, "rows of a weight");
  for (std::int64_t begin = 0; begin < rows; begin += step) {
    const std::int64_t end = std::min(rows, begin + step);
    const Tensor part = piece.rows(0, end - begin);
    base_->read(info, {begin, end}, part);
    apply({.a = change.a, .b = change.b}, info, {begin, end}, part);
    if (info.transposed()) {
      ops::column_dots(arena_, squares, {.a = part, .b = part, .accumulate = begin > 0});
    } else {
      ops::squares_of_rows(squares.rows(begin, end), part);
    }
  }
  change.squares = squares;
}

void MergedSource::apply(const Change& change, const ParamInfo& info, Slice slice,
                         const Tensor& rows) {
  const bool flipped = info.transposed();
  if (change.a.defined() && flipped) {
    ops::matmul(arena_, {change.a.columns(slice.begin, slice.end), true}, {change.b, true}, rows,
                {.accumulate = true});
  } else if (change.a.defined()) {
    ops::matmul(arena_, {change.b.rows(slice.begin, slice.end)}, {change.a}, rows,
                {.accumulate = true});
  }
  Tensor outputs = change.output_scale;
  if (change.magnitude.defined()) {
    outputs = Tensor::empty(arena_, MemoryTag::kIo, DType::kF32, change.magnitude.shape(),
                            "scale of a direction");
    ops::over_root(outputs, change.magnitude, change.squares);
  }
  const auto scale = [&](const Tensor& by, bool by_columns) {
    if (!by.defined()) return;
    if (by_columns) return ops::scale_columns(rows, rows, {.by = &by});
    if (rows.device().planning) return;
    float* values = rows.data<float>();
    const std::int64_t width = rows.dim(1);
    parallel_for_each(slice.rows(), width, [&](std::int64_t r) {
      const float factor = by.data<float>()[slice.begin + r];
      for (std::int64_t c = 0; c < width; ++c) values[r * width + c] *= factor;
    });
  };
  scale(outputs, flipped);
  scale(change.input_scale, !flipped);
}

}  // namespace thimble
