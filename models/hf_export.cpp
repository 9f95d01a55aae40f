#include "models/hf_export.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/io/file.h"
#include "core/io/safetensors_model.h"
#include "core/io/staged.h"
#include "core/ops/ops.h"
#include "models/export_rows.h"
#include "models/fused_tensors.h"
#include "models/generation_config.h"
#include "models/model_files.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// The matrix that holds the parameter in files, if it holds several.
FusedPlace file_place(const Transformer& model, const ParamInfo& info) {
  const std::optional<FusedPlace> fused =
      model.config().fused_projections ? fused_place(model.params(), info.name) : std::nullopt;
  return fused ? *fused : FusedPlace{info.name, 0, info.shape[0]};
}

// Runs body(name, rows as bytes, byte offset) over every tensor of the files in slices.
template <typename Body>
void for_slices(Arena& arena, const Transformer& model, ParamStore& store, DType dtype,
                Body&& body) {
  std::optional<Pin> pin;
  BlockId pinned = -1;
  for (const ParamId id : model.params().ids()) {
    const ParamInfo& info = model.params().info(id);
    if (model.block_of(id) != pinned) {
      pin.reset();
      pinned = model.block_of(id);
      pin.emplace(store, pinned);
      store.prefetch(pinned + 1);
    }
    const Tensor stored = on_host(arena, pin->view(id));
    const std::int64_t cols = info.is_matrix() ? info.shape[1] : 1;
    const std::int64_t rows = info.shape[0];
    const FusedPlace place = file_place(model, info);
    const std::int64_t step = std::clamp<std::int64_t>(kExportBytes / (4 * cols), 1, rows);
    const Tensor gathered = Tensor::empty(arena.pinned(), MemoryTag::kIo, stored.dtype(),
                                          Shape{step, cols}, "export rows");
    const Tensor out =
        Tensor::empty(arena.pinned(), MemoryTag::kIo, dtype, Shape{step, cols}, "export rows");
    if (arena.device().planning) continue;
    for (std::int64_t r = 0; r < rows; r += step) {
      const std::int64_t end = std::min(rows, r + step);
      export_rows(info, stored, {r, end}, gathered, out);
      const auto bytes = static_cast<std::size_t>((end - r) * cols * dtype_size(dtype));
      body(place.name, std::span(static_cast<const std::byte*>(out.raw()), bytes),
           (place.first_row + r) * cols * dtype_size(dtype));
    }
  }
}

// The same of a source: rows as they come, or the whole of a matrix that is stored transposed.
template <typename Body>
void for_slices(Arena& arena, const Transformer& model, TensorSource& source, DType dtype,
                Body&& body) {
  for (const ParamId id : model.params().ids()) {
    const ParamInfo& info = model.params().info(id);
    const FusedPlace place = file_place(model, info);
    const std::int64_t cols = info.is_matrix() ? info.shape[1] : 1, rows = info.shape[0];
    const std::int64_t step = std::clamp<std::int64_t>(kExportBytes / (4 * cols), 1, rows);
    const auto make = [&](DType type, const Shape& shape) {
      return Tensor::empty(arena, MemoryTag::kIo, type, shape, "rows to export");
    };
    const Tensor out = make(dtype, Shape{step, cols});
    const bool whole = info.transposed();
    const Tensor read = make(DType::kF32, whole ? info.storage_shape() : Shape{step, cols});
    const Tensor gathered = whole ? make(DType::kF32, Shape{step, cols}) : Tensor();
    if (whole) source.read(info, whole_slice(info), read);
    for (std::int64_t r = 0; r < rows; r += step) {
      const std::int64_t end = std::min(rows, r + step);
      const Tensor part = out.rows(0, end - r);
      if (!whole) source.read(info, {r, end}, read);
      if (arena.device().planning) continue;
      if (whole) {
        export_rows(info, read, {r, end}, gathered, part);
      } else {
        ops::cast(part, read.rows(0, end - r));
      }
      body(place.name,
           std::span(static_cast<const std::byte*>(part.raw()),
                     static_cast<std::size_t>(part.nbytes())),
           (place.first_row + r) * cols * dtype_size(dtype));
    }
  }
}

template <typename Weights>
void write_tensors(Arena& arena, const Transformer& model, Weights& weights,
                   const HfExport& options, const fs::path& directory) {
  std::vector<SafetensorsSpec> specs;
  for (const ParamId id : model.params().ids()) {
    const ParamInfo& info = model.params().info(id);
    const FusedPlace place = file_place(model, info);
    if (place.first_row > 0) continue;
    specs.push_back(
        {place.name, options.dtype, {info.shape.dims().begin(), info.shape.dims().end()}});
    specs.back().shape[0] = place.rows;
  }
  const std::vector<SafetensorsShard> shards =
      plan_safetensors_shards(specs, options.max_shard_bytes);
  std::size_t shard = 0, left = 0;
  std::unique_ptr<SafetensorsWriter> writer;
  std::string current;
  const auto finish = [&] {
    if (writer) writer->finish();
    writer.reset();
  };
  for_slices(arena, model, weights, options.dtype,
             [&](const std::string& name, auto bytes, std::int64_t offset) {
               if (offset == 0) {  // a new tensor: the next shard begins when the last one is full
                 if (left == 0) {
                   finish();
                   writer = std::make_unique<SafetensorsWriter>(
                       directory / shards[shard].file_name, shards[shard].specs,
                       std::map<std::string, std::string>{{"format", "pt"}});
                   left = shards[shard++].specs.size();
                 }
                 --left;
               }
               writer->write(name, bytes);
             });
  finish();
  if (shards.size() > 1) make_safetensors_index(shards).save(directory / kSafetensorsIndexName);
}

// Compares every tensor on disk with the weights, bit for bit.
template <typename Weights>
void compare(Arena& arena, const Transformer& model, Weights& weights, DType dtype,
             const fs::path& directory) {
  const SafetensorsModel written = SafetensorsModel::open(directory);
  const Reservation space = arena.pinned().reserve(MemoryTag::kIo, kExportBytes, "export check");
  for_slices(arena, model, weights, dtype,
             [&](const std::string& name, auto bytes, std::int64_t offset) {
               const auto location = written.find(name);
               const std::span read(static_cast<std::byte*>(space.data()), bytes.size());
               if (location.entry == nullptr)
                 throw_system("{}: tensor {} was not written", directory.string(), name);
               location.file->read(*location.entry, offset, read);
               if (std::memcmp(read.data(), bytes.data(), bytes.size()) != 0) {
                 throw_system("{}: tensor {} reads back differently from what was written",
                              directory.string(), name);
               }
             });
}

std::string generation_config_json(const ModelConfig& config) {
  nlohmann::ordered_json json;
  if (config.bos_id) json["bos_token_id"] = *config.bos_id;
  if (!config.eos_ids.empty()) json["eos_token_id"] = config.eos_ids;
  return json.is_null() ? "{}\n" : json.dump(2) + "\n";
}

}  // namespace

void write_model_files(const ModelConfig& config, const HfExport& options,
                       const fs::path& directory) {
  write_file_atomic(directory / "config.json",
                    exported_config(config, options.dtype, options.source_config));
  for (const fs::path& file : options.files_to_copy) copy_into(file, directory);
  if (options.source_config.empty() && !fs::exists(directory / kGenerationConfigName)) {
    write_file_atomic(directory / kGenerationConfigName, generation_config_json(config));
  }
  if (options.tokenizer_is_bytes) {
    write_file_atomic(directory / kByteTokenizerMarker,
                      "Tokens are bytes; id 256 begins and ends a document.\n");
  }
}

namespace {

template <typename Weights>
std::optional<fs::path> export_from(Arena& arena, const Transformer& model, Weights& weights,
                                    const HfExport& options) {
  if (!arena.device().planning && options.writes) {
    StagedDirectory staged(options.directory);
    write_model_files(model.config(), options, staged.path());
    write_tensors(arena, model, weights, options, staged.path());
    compare(arena, model, weights, options.dtype, staged.path());
    return staged.put_in_place();
  }
  const Reservation space = arena.pinned().reserve(MemoryTag::kIo, kExportBytes, "export check");
  const auto nothing = [](const std::string&, auto, std::int64_t) {};
  for_slices(arena, model, weights, options.dtype, nothing);
  if (!arena.device().planning) for_slices(arena, model, weights, options.dtype, nothing);
  return std::nullopt;
}

}  // namespace

std::optional<fs::path> export_hf(Arena& arena, const Transformer& model, ParamStore& store,
                                  const HfExport& options) {
  return export_from(arena, model, store, options);
}

std::optional<fs::path> export_hf(Arena& arena, const Transformer& model, TensorSource& source,
                                  const HfExport& options) {
  return export_from(arena, model, source, options);
}

}  // namespace thimble
