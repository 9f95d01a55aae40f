#include "models/model_files.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/base/numeric.h"
#include "core/io/file.h"
#include "core/io/safetensors_model.h"
#include "models/hf_export.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

constexpr std::int64_t kCarriedLimitBytes = 256 * kMiB;
constexpr std::array<const char*, 11> kTokenizerNames{
    "tokenizer.json",     "tokenizer.model", "tokenizer_config.json",    "special_tokens_map.json",
    "vocab.json",         "merges.txt",      "added_tokens.json",        "chat_template.jinja",
    "chat_template.json", "tokenizer.bin",   "additional_chat_templates"};
// The spellings of the RoPE keys, of which only one is written.
constexpr std::array<const char*, 5> kRotaryKeys{"rope_theta", "rope_local_base_freq",
                                                 "rope_scaling", "rope_parameters",
                                                 "original_max_position_embeddings"};

const char* torch_name(DType dtype) {
  return dtype == DType::kBF16 ? "bfloat16" : "float32";
}

bool is_tokenizer_file(const fs::path& path) {
  const std::string name = path.filename().string();
  return std::any_of(kTokenizerNames.begin(), kTokenizerNames.end(),
                     [&](const char* known) { return name == known; });
}

bool is_carried(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  if (is_tokenizer_file(entry.path())) return true;
  if (!entry.is_regular_file() || name == "config.json" || name == kByteTokenizerMarker ||
      is_weight_file(entry.path().filename()))
    return false;
  return !name.ends_with(".bin") && !name.ends_with(".onnx") &&
         entry.file_size() <= static_cast<std::uintmax_t>(kCarriedLimitBytes);
}

}  // namespace

std::string exported_config(const ModelConfig& config, DType dtype, std::string_view source) {
  const std::string anew = model_config_json(config, torch_name(dtype));
  if (source.empty()) return anew;
  OrderedJson json = OrderedJson::parse(source);
  const OrderedJson now = OrderedJson::parse(anew);
  const OrderedJson before = OrderedJson::parse(
      model_config_json(parse_model_config(source, "config.json"), torch_name(dtype)));
  bool changed = false, rotary = false;
  const auto value = [](const OrderedJson& of, const std::string& key) {
    return of.contains(key) ? of[key] : OrderedJson();
  };
  OrderedJson both = before;
  both.update(now);
  for (const auto& [key, ignored] : both.items()) {
    if (value(before, key) == value(now, key)) continue;
    changed = true;
    if (std::find(kRotaryKeys.begin(), kRotaryKeys.end(), key) != kRotaryKeys.end()) {
      rotary = true;
    } else if (now.contains(key)) {
      json[key] = now[key];
    } else {
      json.erase(key);
    }
  }
  for (const char* key : kRotaryKeys) {
    if (!rotary) break;
    json.erase(key);
    if (now.contains(key)) json[key] = now[key];
  }
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (!json.contains(key) || json[key].is_null() || json[key] == torch_name(dtype)) continue;
    json[key] = torch_name(dtype);
    changed = true;
  }
  return changed ? json.dump(2) + "\n" : std::string(source);
}

std::vector<fs::path> tokenizer_files(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const char* name : kTokenizerNames) {
    if (fs::exists(directory / name)) files.push_back(directory / name);
  }
  return files;
}

std::vector<fs::path> exported_files(const fs::path& model, const fs::path& tokenizer) {
  std::vector<fs::path> files;
  const bool own_tokenizer =
      tokenizer == model || (tokenizer == "byte" && fs::exists(model / kByteTokenizerMarker));
  if (!model.empty()) {
    for (const auto& entry : fs::directory_iterator(model)) {
      if (is_carried(entry) && (own_tokenizer || !is_tokenizer_file(entry.path())))
        files.push_back(entry.path());
    }
  }
  if (!own_tokenizer && fs::is_directory(tokenizer)) {
    const std::vector<fs::path> theirs = tokenizer_files(tokenizer);
    files.insert(files.end(), theirs.begin(), theirs.end());
  } else if (!own_tokenizer && fs::is_regular_file(tokenizer)) {
    files.push_back(tokenizer);
  }
  std::sort(files.begin(), files.end());
  return files;
}

void copy_into(const fs::path& file, const fs::path& directory) {
  if (fs::is_directory(file)) {
    const fs::path folder = directory / file.filename();
    fs::create_directory(folder);
    for (const auto& entry : fs::directory_iterator(file)) {
      if (entry.is_regular_file()) copy_into(entry.path(), folder);
    }
    sync_directory(folder);
    return;
  }
  const fs::path name = file.extension() == ".bin" ? fs::path("tokenizer.bin") : file.filename();
  fs::copy_file(file, directory / name);
  File::open_read(directory / name).data_sync();
}

}  // namespace thimble
