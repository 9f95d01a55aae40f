#include "compress/kvc_file.h"

#include <cstring>
#include <map>

#include "compress/kvc_tensors.h"
#include "compress/matryoshka_model.h"
#include "core/base/random.h"
#include "core/base/threads.h"
#include "core/io/safetensors.h"
#include "core/io/staged.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr float kInitStd = 0.02f;

// What turns bases begins at nothing, and no file has it.
bool is_skew(const ParamInfo& info) {
  return info.name.ends_with("_skew");
}

DType written_dtype(const CompressorModel& model, DType dtype) {
  return model.config().kind == CompressorKind::kMatryoshka ? DType::kF32 : dtype;
}

// As in the file: bases and means have a dimension of heads.
Shape file_shape(const CompressorModel& model, const ParamInfo& info) {
  if (model.config().kind != CompressorKind::kMatryoshka) return info.shape;
  const std::int64_t heads = model.shape().kv_heads, d = model.shape().head_dim;
  return info.is_matrix() ? Shape{heads, d, d} : Shape{heads, d};
}

std::map<std::string, Shape> shapes_of(const CompressorModel& model) {
  std::map<std::string, Shape> shapes;
  for (const ParamId id : model.own()) {
    const ParamInfo& info = model.params().info(id);
    if (!is_skew(info)) shapes[info.name] = file_shape(model, info);
  }
  return shapes;
}

// The bases that a parameter is one of, as they are turned; null: it is exported as it is.
const BasisWeights* basis_of(const CompressorModel& model, ParamId id) {
  const auto* of = dynamic_cast<const MatryoshkaModel*>(&model);
  if (of == nullptr) return nullptr;
  for (const MatryoshkaModel::LayerBases& layer : of->bases()) {
    if (layer.keys.basis.id == id) return &layer.keys;
    if (layer.values.basis.id == id) return &layer.values;
  }
  return nullptr;
}

// Rows of a matrix's storage, of its logical values [m, n].
void copy_storage_rows(const ParamInfo& info, Slice slice, const float* logical, float* to) {
  const std::int64_t width = info.is_matrix() ? info.storage_shape()[1] : 1;
  const std::int64_t cols = info.is_matrix() ? info.shape[1] : 1;
  parallel_for_each(slice.rows(), width, [&](std::int64_t i) {
    const std::int64_t row = slice.begin + i;
    for (std::int64_t c = 0; c < width; ++c)
      to[i * width + c] = info.transposed() ? logical[c * cols + row] : logical[row * cols + c];
  });
}

void draw_storage_rows(const ParamInfo& info, Slice slice, std::uint64_t seed, float* to) {
  constexpr std::int64_t kNormalCost = 16;  // drawing a value beside writing it
  const CounterRandom random(seed, RandomPurpose::kInit, hash_name(info.name));
  const std::int64_t width = info.storage_shape()[1], cols = info.shape[1];
  parallel_for_each(slice.rows(), width * kNormalCost, [&](std::int64_t i) {
    const std::int64_t row = slice.begin + i;
    for (std::int64_t c = 0; c < width; ++c) {
      const std::int64_t index = info.transposed() ? c * cols + row : row * cols + c;
      to[i * width + c] = kInitStd * random.normal(static_cast<std::uint64_t>(index));
    }
  });
}

// Runs body(name, bytes, as many bytes of room) over the compressor's tensors as they are exported.
template <typename Body>
void for_exported(Arena& arena, const CompressorModel& model, ParamStore& store, DType dtype,
                  Body&& body) {
  for (const ParamId id : model.own()) {
    const ParamInfo& info = model.params().info(id);
    if (is_skew(info)) continue;
    const Pin pin(store, model.block_of(id));
    const BasisWeights* basis = basis_of(model, id);
    Tensor values = basis != nullptr ? trained_basis(arena, store, *basis) : pin.view(id);
    if (info.transposed()) {
      const Tensor logical =
          Tensor::empty(arena, MemoryTag::kIo, values.dtype(), info.shape, "compressor to export");
      ops::transpose(logical, values);
      values = logical;
    }
    const Tensor out =
        Tensor::empty(arena, MemoryTag::kIo, dtype, info.shape, "compressor to export");
    const Tensor room =
        Tensor::empty(arena, MemoryTag::kIo, dtype, info.shape, "compressor read back");
    ops::cast(out, values);
    if (arena.device().planning) continue;
    const auto count = static_cast<std::size_t>(out.nbytes());
    body(info.name, std::span(static_cast<const std::byte*>(out.raw()), count),
         std::span(static_cast<std::byte*>(room.raw()), count));
  }
}

}  // namespace

struct CompressorSource::Opened {
  KvcTensors tensors;
};

CompressorSource::CompressorSource(Arena& arena, const CompressorModel& model,
                                   std::unique_ptr<TensorSource> base, const CompressorStart& start)
    : arena_(arena), model_(model), base_(std::move(base)), seed_(start.seed) {
  if (!start.directory.empty())
    opened_ = std::make_unique<Opened>(KvcTensors(start.directory, shapes_of(model)));
}

CompressorSource::~CompressorSource() = default;

void CompressorSource::read(const ParamInfo& info, Slice slice, const Tensor& dst) {
  const std::optional<ParamId> id = model_.params().find(info.name);
  if (!id || !model_.is_own(*id)) return base_->read(info, slice, dst);
  if (opened_ != nullptr && !is_skew(info)) {
    const Tensor logical = opened_->tensors.read(arena_, info.name);
    if (arena_.device().planning) return;
    copy_storage_rows(info, slice, logical.data<float>(), dst.data<float>());
  } else if (!arena_.device().planning && is_skew(info)) {
    std::fill_n(dst.data<float>(), dst.numel(), 0.0f);
  } else if (!arena_.device().planning) {
    draw_storage_rows(info, slice, seed_, dst.data<float>());
  }
}

std::int64_t exported_bytes(const CompressorModel& model, DType dtype) {
  std::int64_t bytes = 0;
  for (const ParamId id : model.own()) {
    const ParamInfo& info = model.params().info(id);
    if (!is_skew(info)) bytes += dtype_size(written_dtype(model, dtype)) * info.shape.numel();
  }
  return bytes;
}

std::optional<fs::path> export_compressor(Arena& arena, const CompressorModel& model,
                                          ParamStore& store, const KvcExport& wanted) {
  KvcExport options = wanted;
  options.dtype = written_dtype(model, wanted.dtype);
  const auto nothing = [](const std::string&, auto, auto) {};
  if (arena.device().planning || !options.writes) {
    for (int pass = 0; pass < 2; ++pass) for_exported(arena, model, store, options.dtype, nothing);
    return std::nullopt;
  }
  StagedDirectory staged(options.directory);
  write_file_atomic(staged.path() / kKvcConfigName, kvc_config_json(options.config));
  std::vector<SafetensorsSpec> specs;
  for (const ParamId id : model.own()) {
    const ParamInfo& info = model.params().info(id);
    if (is_skew(info)) continue;
    const Shape shape = file_shape(model, info);
    specs.push_back({info.name, options.dtype, {shape.dims().begin(), shape.dims().end()}});
  }
  SafetensorsWriter writer(staged.path() / kKvcFileName, specs,
                           {{"format", "kvc"}, {"version", "1"}});
  for_exported(arena, model, store, options.dtype,
               [&](const std::string& name, auto bytes, auto) { writer.write(name, bytes); });
  writer.finish();
  const SafetensorsFile written = SafetensorsFile::open(staged.path() / kKvcFileName);
  for_exported(arena, model, store, options.dtype,
               [&](const std::string& name, auto bytes, auto room) {
                 written.read(*written.find(name), 0, room);
                 if (std::memcmp(room.data(), bytes.data(), bytes.size()) != 0) {
                   throw_system("{}: tensor {} reads back differently from what was written",
                                options.directory.string(), name);
                 }
               });
  return staged.put_in_place();
}

std::shared_ptr<const RetainingHeads> load_heads(Arena& arena, const KvcConfig& config,
                                                 const BackboneShape& shape,
                                                 const fs::path& directory, DType dtype) {
  std::map<std::string, Shape> expected;
  for (int layer = 0; layer < shape.layers; ++layer) {
    if (!shape.has_heads(layer)) continue;
    const HeadShapes shapes = head_shapes(config.compressor, shape, layer);
    expected[shapes.first_name] = shapes.first;
    expected[shapes.second_name] = shapes.second;
  }
  const KvcTensors tensors(directory, expected);
  const auto load = [&](const std::string& name, DType to) {
    const Tensor values = tensors.read(arena, name);
    Tensor kept = Tensor::empty(arena, MemoryTag::kWeights, to, values.shape(), "retaining heads");
    ops::cast(kept, values);
    return kept;
  };
  std::vector<RetainingHeads::Layer> layers(static_cast<std::size_t>(shape.layers));
  for (int layer = 0; layer < shape.layers; ++layer) {
    if (!shape.has_heads(layer)) continue;
    const HeadShapes shapes = head_shapes(config.compressor, shape, layer);
    layers[static_cast<std::size_t>(layer)] = {.first = load(shapes.first_name, dtype),
                                               .second = load(shapes.second_name, DType::kF32)};
  }
  return std::make_shared<RetainingHeads>(std::move(layers), config.activation);
}

}  // namespace thimble
