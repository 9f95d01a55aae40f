// Writes a model as a directory that transformers opens.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/nn/param_store.h"
#include "models/transformer.h"

namespace thimble {

/// A file of this name in a model directory says that its tokens are bytes.
inline constexpr const char* kByteTokenizerMarker = "tokenizer.byte";

struct HfExport {
  std::filesystem::path directory;
  DType dtype = DType::kBF16;  // of the tensors in the files
  std::int64_t max_shard_bytes = 5'000'000'000;
  std::string source_config;  // text of the config.json the model came with; empty: none
  std::vector<std::filesystem::path> files_to_copy;  // byte for byte, see exported_files
  bool tokenizer_is_bytes = false;                   // writes kByteTokenizerMarker
  std::string base_model = {};  // of an adapter: what it is one of, as its configuration names it
  bool writes =
      true;  // false: only takes part in gathering the weights, for a rank that writes nothing
};

/// Writes all that such a directory holds besides the tensors.
void write_model_files(const ModelConfig& config, const HfExport& options,
                       const std::filesystem::path& directory);

/// Writes config.json (exported_config), for a model that came with none generation_config.json,
/// and safetensors (with an index if sharded), one slice in memory at a time; a tied lm_head.weight
/// is left out. The directory is written under a temporary name, read back, every tensor compared
/// bit for bit with the store, and only then renamed. What was at the directory's name before is
/// moved aside, never removed: the name it has now is returned. Throws SystemError if writing fails
/// or what was read differs.
std::optional<std::filesystem::path> export_hf(Arena& arena, const Transformer& model,
                                               ParamStore& store, const HfExport& options);

/// The same of weights that are read a few rows at a time, in memory of the host.
std::optional<std::filesystem::path> export_hf(Arena& arena, const Transformer& model,
                                               TensorSource& source, const HfExport& options);

}  // namespace thimble
