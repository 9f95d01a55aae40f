#include "core/io/safetensors_model.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/strict_json.h"

namespace thimble {
namespace {

constexpr std::int64_t kMaxIndexBytes = 16 * kMiB;

}  // namespace

bool is_weight_file(const std::filesystem::path& name) {
  static constexpr std::array<std::string_view, 8> kEndings{
      ".safetensors", ".safetensors.index.json", ".bin.index.json", ".gguf", ".pt", ".pth", ".h5",
      ".msgpack"};
  const std::string text = name.string();
  return std::any_of(kEndings.begin(), kEndings.end(),
                     [&](std::string_view ending) { return text.ends_with(ending); }) ||
         (text.starts_with("pytorch_model") && text.ends_with(".bin"));
}

SafetensorsIndex SafetensorsIndex::load(const std::filesystem::path& path) {
  const std::string name = path.string();
  const nlohmann::json root = parse_strict_json(read_text_file(path, kMaxIndexBytes), name);
  if (!root.is_object() || !root.contains("weight_map") || !root["weight_map"].is_object() ||
      root["weight_map"].empty()) {
    throw_user("{}: 'weight_map' is missing; an object from tensor names to file names is expected",
               name);
  }
  SafetensorsIndex index;
  for (const auto& [tensor, file] : root["weight_map"].items()) {
    if (!file.is_string() || !is_plain_file_name(file.get_ref<const std::string&>())) {
      throw_user("{}: tensor '{}': shard {} is not the name of a file in the same directory", name,
                 printable(tensor),
                 printable(file.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)));
    }
    index.weight_map.emplace(tensor, file.get<std::string>());
  }
  if (root.contains("metadata") && root["metadata"].is_object() &&
      root["metadata"].contains("total_size") &&
      root["metadata"]["total_size"].is_number_unsigned()) {
    index.total_size = json_size(root["metadata"], "total_size", name, "metadata");
  }
  return index;
}

void SafetensorsIndex::save(const std::filesystem::path& path) const {
  nlohmann::ordered_json root;
  root["metadata"]["total_size"] = total_size;
  root["weight_map"] = weight_map;
  write_file_atomic(path, root.dump(2) + "\n");
}

std::vector<std::string> SafetensorsIndex::shard_names() const {
  std::set<std::string> names;
  for (const auto& [tensor, file] : weight_map) names.insert(file);
  return {names.begin(), names.end()};
}

namespace {

std::vector<std::string> weight_files(const std::filesystem::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (is_weight_file(entry.path().filename())) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

[[noreturn]] void no_weights(const std::filesystem::path& directory) {
  std::vector<std::string> others = weight_files(directory);
  for (std::string& name : others) name = printable(name);
  if (others.size() > 4) others.erase(others.begin() + 4, others.end());
  throw_user("{}: no weights: neither {} nor {} is there{}", directory.string(),
             kSafetensorsFileName, kSafetensorsIndexName,
             others.empty() ? ""
                            : fmt::format("; {} cannot be read: save the model as safetensors "
                                          "(transformers: model.save_pretrained)",
                                          join(others)));
}

}  // namespace

SafetensorsModel SafetensorsModel::open(const std::filesystem::path& directory) {
  if (!std::filesystem::is_directory(directory)) {
    throw_user("cannot open {}: a model directory is expected", directory.string());
  }
  SafetensorsModel model;
  const std::filesystem::path index_path = directory / kSafetensorsIndexName;
  const bool single = std::filesystem::is_regular_file(directory / kSafetensorsFileName);
  if (single) {
    model.add_file(directory / kSafetensorsFileName, nullptr);
  } else if (std::filesystem::is_regular_file(index_path)) {
    model.add_shards(index_path);
  } else {
    no_weights(directory);
  }
  for (const std::string& name : weight_files(directory)) {
    const bool used = std::any_of(model.files_.begin(), model.files_.end(), [&](const auto& file) {
      return file->file().path().filename() == name;
    });
    if (!used && (single || name != kSafetensorsIndexName)) model.ignored_.push_back(name);
  }
  return model;
}

void SafetensorsModel::add_shards(const std::filesystem::path& index_path) {
  const std::filesystem::path directory = index_path.parent_path();
  const SafetensorsIndex index = SafetensorsIndex::load(index_path);
  for (const std::string& shard : index.shard_names()) {
    if (!std::filesystem::exists(directory / shard)) {
      throw_user("{}: shard {} is missing from {}", index_path.string(), printable(shard),
                 directory.string());
    }
    add_file(directory / shard, &index);
  }
  for (const auto& [tensor, file] : index.weight_map) {
    if (!tensors_.contains(tensor)) {
      throw_user("{}: tensor '{}' is not in {}, where the index says it is", index_path.string(),
                 printable(tensor), printable(file));
    }
  }
}

void SafetensorsModel::add_file(const std::filesystem::path& path, const SafetensorsIndex* index) {
  files_.push_back(std::make_unique<SafetensorsFile>(SafetensorsFile::open(path)));
  const SafetensorsFile& file = *files_.back();
  const std::string file_name = path.filename().string();
  for (const SafetensorsEntry& entry : file.entries()) {
    if (index != nullptr) {
      const auto listed = index->weight_map.find(entry.name);
      if (listed == index->weight_map.end() || listed->second != file_name) {
        throw_user(
            "{}: tensor '{}' is in this shard but the index places it {}", path.string(),
            printable(entry.name),
            listed == index->weight_map.end() ? "nowhere" : "in " + printable(listed->second));
      }
    }
    tensors_.emplace(entry.name, Location{&file, &entry});
  }
}

SafetensorsModel::Location SafetensorsModel::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? Location{} : found->second;
}

std::string SafetensorsModel::alias_of(std::string_view name) const {
  for (const auto& file : files_) {
    const auto stands_for = file->metadata().find(std::string(name));
    if (stands_for != file->metadata().end() && tensors_.contains(stands_for->second))
      return stands_for->second;
  }
  return "";
}

std::vector<std::filesystem::path> SafetensorsModel::paths() const {
  std::vector<std::filesystem::path> paths;
  for (const auto& file : files_) paths.push_back(file->file().path());
  return paths;
}

std::vector<SafetensorsShard> plan_safetensors_shards(const std::vector<SafetensorsSpec>& specs,
                                                      std::int64_t max_shard_bytes) {
  TH_CHECK(max_shard_bytes > 0);
  std::vector<SafetensorsShard> shards(1);
  std::int64_t bytes = 0;
  for (const SafetensorsSpec& spec : specs) {
    if (!shards.back().specs.empty() && bytes + spec.bytes() > max_shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += spec.bytes();
    shards.back().specs.push_back(spec);
  }
  if (shards.size() == 1) {
    shards.front().file_name = kSafetensorsFileName;
    return shards;
  }
  for (std::size_t i = 0; i < shards.size(); ++i) {
    shards[i].file_name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  }
  return shards;
}

SafetensorsIndex make_safetensors_index(const std::vector<SafetensorsShard>& shards) {
  SafetensorsIndex index;
  for (const SafetensorsShard& shard : shards) {
    for (const SafetensorsSpec& spec : shard.specs) {
      index.weight_map.emplace(spec.name, shard.file_name);
      index.total_size += spec.bytes();
    }
  }
  return index;
}

}  // namespace thimble
