// A GGUF file of a model: keys, tokenizer, tensors.
#include <cstring>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "launcher/convert/gguf_codes.h"
#include "launcher/convert/gguf_model.h"
#include "launcher/convert/gguf_vocabulary.h"
#include "launcher/convert/output_files.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr std::uint32_t kQuantizationVersion = 2;

// Of each head the rows (i, i + half) become neighbours.
void pair_rows(std::vector<float>& rows, std::int64_t row, std::int64_t head) {
  std::vector<float> out(rows.size());
  const auto bytes = static_cast<std::size_t>(row) * sizeof(float);
  const std::int64_t count = narrow<std::int64_t>(rows.size()) / row;
  for (std::int64_t r = 0; r < count; ++r) {
    const std::int64_t in_head = r % head, half = head / 2;
    const std::int64_t to = r - in_head + (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1);
    std::memcpy(out.data() + to * row, rows.data() + r * row, bytes);
  }
  rows = std::move(out);
}

// Calls body(bytes) with the tensor's bytes in order, about `window` bytes of values at a time.
template <typename Body>
void for_bytes(const GgufSource& source, std::int64_t window, Body&& body) {
  std::vector<std::byte> bytes;
  const auto append = [&](std::span<const float> values) {
    bytes.clear();
    append_gguf_values(values, source.tensor.type, source.tensor.name, bytes);
    body(std::span<const std::byte>(bytes));
  };
  if (source.from == nullptr) return append(source.values);
  const StoredArray from = as_dtype(*source.from, DType::kF32);
  const std::int64_t rows = source.tensor.shape[0], row = from.row();
  const std::int64_t whole = std::max<std::int64_t>(source.paired_rows, 1);
  const std::int64_t step =
      std::max<std::int64_t>(1, window / (row * whole * dtype_size(DType::kF32))) * whole;
  std::vector<float> values;
  for (std::int64_t first = 0; first < rows; first += step) {
    values.resize(static_cast<std::size_t>(std::min(step, rows - first) * row));
    from.reader->read(first * row, std::as_writable_bytes(std::span(values)));
    if (source.paired_rows > 0) pair_rows(values, row, source.paired_rows);
    append(values);
  }
}

GgufKeys all_keys(const CheckpointImage& image, GgufType type) {
  GgufKeys keys = gguf_model_keys(image.origin->config);
  keys.emplace_back("general.name", image.path.filename().string());
  keys.emplace_back("general.file_type", gguf_type(type).file_type);
  keys.emplace_back("general.quantization_version", kQuantizationVersion);
  const std::int64_t rows = image.params.at("model.embed_tokens.weight").weight.shape[0];
  for (auto& key : gguf_vocabulary_keys(*image.origin, rows)) keys.push_back(std::move(key));
  return keys;
}

std::vector<GgufTensor> tensors_of(const std::vector<GgufSource>& sources) {
  std::vector<GgufTensor> tensors;
  for (const GgufSource& source : sources) tensors.push_back(source.tensor);
  return tensors;
}

}  // namespace

std::vector<OutputFile> gguf_files(const CheckpointImage& image, std::string name, GgufType type) {
  return {{.name = std::move(name),
           .write = [&image, type](const fs::path& file, std::int64_t window_bytes) {
             const std::vector<GgufSource> sources = gguf_tensors(image, type);
             const GgufLayout layout(all_keys(image, type), tensors_of(sources));
             GgufWriter writer(file, layout);
             for (const GgufSource& source : sources) {
               for_bytes(source, window_bytes,
                         [&](std::span<const std::byte> bytes) { writer.write(bytes); });
             }
             writer.finish();
           }}};
}

void verify_gguf_image(const CheckpointImage& image, const fs::path& file,
                       const WriteOptions& options) {
  const std::vector<GgufSource> sources = gguf_tensors(image, options.gguf_type);
  const GgufLayout layout(all_keys(image, options.gguf_type), tensors_of(sources));
  const File written = File::open_read(file);
  std::vector<std::byte> found;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    std::int64_t at = layout.offsets[i];
    for_bytes(sources[i], options.window_bytes, [&](std::span<const std::byte> bytes) {
      found.resize(bytes.size());
      written.read_at(at, found);
      at += narrow<std::int64_t>(bytes.size());
      if (!bytes.empty() && std::memcmp(found.data(), bytes.data(), bytes.size()) != 0) {
        throw_system("{}: {} reads back differently from what was written", file.string(),
                     sources[i].tensor.name);
      }
    });
  }
}

}  // namespace thimble
