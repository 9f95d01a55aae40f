// Hugging Face directories and llama2.c files as images.
#include <algorithm>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/device/arena.h"
#include "core/io/safetensors_model.h"
#include "core/ops/kernel_table.h"
#include "launcher/convert/image_readers.h"
#include "launcher/convert/open_image.h"
#include "models/hf_export.h"
#include "models/weight_sources.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// Whole parameters of a TensorSource, the last one kept until its end is read.
class SourceReader final : public ArrayReader {
 public:
  SourceReader(ParamInfo info, std::shared_ptr<TensorSource> source)
      : info_(std::move(info)), source_(std::move(source)) {}

  void read(std::int64_t first, std::span<std::byte> out) const override {
    if (values_.empty()) load();
    const auto begin = static_cast<std::size_t>(first) * sizeof(float);
    const auto all = std::as_bytes(std::span(values_));
    std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(begin), out.size(), out.begin());
    if (begin + out.size() == all.size()) values_ = {};
  }

 private:
  void load() const {
    const std::int64_t numel = info_.shape.numel();
    const auto arena = Arena::make_cpu(3 * round_up(numel * 4, kMiB) + kMiB);
    const Tensor stored = Tensor::empty(*arena, MemoryTag::kIo, DType::kF32, info_.storage_shape(),
                                        "a parameter to convert");
    source_->read(info_, whole_slice(info_), stored);
    values_.resize(static_cast<std::size_t>(numel));
    if (info_.transposed()) {
      kernels(Device{}).transpose(values_.data(), stored.raw(), info_.shape[1], info_.shape[0], 4);
    } else {
      std::copy_n(stored.data<float>(), numel, values_.begin());
    }
  }

  ParamInfo info_;
  std::shared_ptr<TensorSource> source_;
  mutable std::vector<float> values_;
};

StoredArray safetensors_array(const SafetensorsModel::Location& location,
                              const std::shared_ptr<const File>& file) {
  const SafetensorsEntry& entry = *location.entry;
  const std::string name = fmt::format("{}: {}", file->path().string(), printable(entry.name, 200));
  if (entry.dtype != DType::kF32 && entry.dtype != DType::kBF16 && entry.dtype != DType::kF16) {
    throw_user("{}: tensor {} is {}; allowed F32, BF16, F16", file->path().string(),
               printable(entry.name, 200), printable(entry.dtype_text));
  }
  return array_of_pieces(name, *entry.dtype, entry.shape,
                         {{.file = file,
                           .offset = entry.offset,
                           .begin = Extents(entry.shape.size(), 0),
                           .extent = entry.shape,
                           .strides = row_major_strides(entry.shape)}});
}

void add_safetensors(CheckpointImage& image, const fs::path& directory) {
  const SafetensorsModel model = SafetensorsModel::open(directory);
  std::map<std::string, std::shared_ptr<const File>> files;
  for (const fs::path& path : model.paths())
    files.emplace(path.string(), std::make_shared<const File>(File::open_read(path)));
  for (const auto& [name, location] : model.tensors()) {
    // A rotary table may have any dtype and is never used.
    if (name.ends_with("rotary_emb.inv_freq")) continue;
    add_param(image, name,
              safetensors_array(location, files.at(location.file->file().path().string())));
  }
  for (const char* tied : {"model.embed_tokens.weight", "lm_head.weight"}) {
    if (const std::string alias = model.alias_of(tied); !alias.empty())
      image.aliases.emplace(tied, alias);
  }
  std::vector<std::string> ignored = model.ignored_files();
  // What transformers' Trainer leaves beside them holds no weights.
  std::erase_if(ignored, [](const std::string& name) {
    return name == "optimizer.pt" || name == "scheduler.pt";
  });
  for (std::string& name : ignored) name = printable(name);
  if (!ignored.empty()) {
    image.notes.push_back(fmt::format(
        "{}: the weights are those of {}; not read: {}", directory.string(),
        model.paths().front().filename() == kSafetensorsFileName ? kSafetensorsFileName
                                                                 : kSafetensorsIndexName,
        join(ignored)));
  }
}

// f16 has more mantissa bits than bf16, so only f32 holds all values of a model that has some.
DType widest_dtype(const CheckpointImage& image) {
  const bool narrow = std::all_of(image.params.begin(), image.params.end(), [](const auto& param) {
    return param.second.weight.dtype == DType::kBF16;
  });
  return narrow ? DType::kBF16 : DType::kF32;
}

}  // namespace

StoredArray array_of_source(const ParamInfo& info, std::shared_ptr<TensorSource> source) {
  return {.name = info.name,
          .dtype = DType::kF32,
          .shape = {info.shape.dims().begin(), info.shape.dims().end()},
          .reader = std::make_shared<SourceReader>(info, std::move(source))};
}

std::optional<ModelOrigin> directory_origin(const fs::path& directory) {
  if (!fs::is_regular_file(directory / "config.json")) return std::nullopt;
  return ModelOrigin{.config = load_model_config(directory / "config.json"),
                     .source_config = read_text_file(directory / "config.json", kMiB),
                     .model_dir = directory,
                     .tokenizer = directory,
                     .byte_tokenizer = fs::exists(directory / kByteTokenizerMarker)};
}

CheckpointImage read_hf_image(const fs::path& directory) {
  CheckpointImage image{.kind = "model directory", .path = directory};
  image.origin = directory_origin(directory);
  image.origin->config =
      load_hf_config(directory, [&](const std::string& note) { image.notes.push_back(note); });
  if (has_bin_weights(directory)) {
    add_bin_weights(image, directory);
  } else {
    add_safetensors(image, directory);
  }
  image.dtype = widest_dtype(image);
  add_trainer_state(image, directory);
  return image;
}

CheckpointImage read_llama2c_image(const fs::path& file) {
  CheckpointImage image{.kind = "llama2.c file", .path = file, .reads_whole_tensors = true};
  auto source = std::make_shared<Llama2cSource>(file);
  image.origin = ModelOrigin{.config = source->config()};
  const Transformer model(image.origin->config);
  for (const ParamId id : model.params().ids()) {
    const ParamInfo& info = model.params().info(id);
    add_param(image, info.name, array_of_source(info, source));
  }
  return image;
}

}  // namespace thimble
