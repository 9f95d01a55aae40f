#include "core/base/error.h"
#include "core/io/safetensors_model.h"
#include "launcher/convert/output_files.h"
#include "models/fused_tensors.h"
#include "models/hf_export.h"
#include "models/model_files.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// All but the weights.
void write_origin(const CheckpointImage& image, const fs::path& directory,
                  const WriteOptions& options) {
  const ModelOrigin& origin = *image.origin;
  const fs::path tokenizer = origin.byte_tokenizer ? fs::path("byte") : origin.tokenizer;
  write_model_files(origin.config,
                    {.directory = directory,
                     .dtype = image.dtype,
                     .max_shard_bytes = options.max_shard_bytes,
                     .source_config = origin.source_config,
                     .files_to_copy = exported_files(origin.model_dir, tokenizer),
                     .tokenizer_is_bytes = origin.byte_tokenizer},
                    directory);
}

void write_shard(const CheckpointImage& image, const SafetensorsShard& shard, const fs::path& path,
                 std::int64_t window_bytes) {
  SafetensorsWriter writer(path, shard.specs, {{"format", "pt"}});
  std::vector<std::byte> window;
  for (const SafetensorsSpec& spec : shard.specs) {
    const StoredArray& weight = image.params.at(spec.name).weight;
    for_rows(weight, window_bytes, [&](std::int64_t first, std::int64_t count) {
      window.resize(static_cast<std::size_t>(count * dtype_size(weight.dtype)));
      weight.reader->read(first, window);
      writer.write(spec.name, window);
    });
  }
  writer.finish();
}

}  // namespace

void write_hf_image(const CheckpointImage& image, const fs::path& directory,
                    const WriteOptions& options) {
  TH_CHECK(image.origin.has_value());
  write_origin(image, directory, options);
  const Transformer model(image.origin->config);
  std::vector<SafetensorsSpec> specs;
  for (const ParamId id : model.params().ids()) {
    const std::string& own = model.params().info(id).name;
    const std::optional<FusedPlace> place = fused_place(model.params(), own);
    const bool fused = place && !image.params.contains(own);
    if (fused && place->first_row > 0) continue;
    const std::string& name = fused ? place->name : own;
    const StoredArray& weight = image.params.at(name).weight;
    specs.push_back({name, weight.dtype, weight.shape});
  }
  const std::vector<SafetensorsShard> shards =
      plan_safetensors_shards(specs, options.max_shard_bytes);
  std::vector<OutputFile> files;
  for (const SafetensorsShard& shard : shards) {
    files.push_back({.name = shard.file_name,
                     .bytes = options.max_shard_bytes,
                     .write = [&image, &shard](const fs::path& path, std::int64_t window_bytes) {
                       write_shard(image, shard, path, window_bytes);
                     }});
  }
  write_files(std::move(files), directory, options);
  if (shards.size() > 1) make_safetensors_index(shards).save(directory / kSafetensorsIndexName);
}

}  // namespace thimble
