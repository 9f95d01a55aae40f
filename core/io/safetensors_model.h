// The safetensors files of one model directory: "model.safetensors" if it is there, else shards
// joined by "model.safetensors.index.json", as transformers chooses. Finds tensors across shards
// and plans shards for writing; copies no whole tensor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/io/safetensors.h"

namespace thimble {

inline constexpr std::string_view kSafetensorsFileName = "model.safetensors";
inline constexpr std::string_view kSafetensorsIndexName = "model.safetensors.index.json";

/// Whether a file of this name holds or lists weights of a model, in whatever format.
bool is_weight_file(const std::filesystem::path& name);

/// The index file of a sharded model.
struct SafetensorsIndex {
  /// Tensor name -> file name, always a plain name in the same directory.
  std::map<std::string, std::string, std::less<>> weight_map;
  /// Bytes of all tensors together.
  std::int64_t total_size = 0;

  /// UserError on malformed JSON, a missing weight_map, or a shard name that leaves the directory.
  static SafetensorsIndex load(const std::filesystem::path& path);
  void save(const std::filesystem::path& path) const;
  /// Each shard's name once, sorted.
  std::vector<std::string> shard_names() const;
};

/// All tensors of a model directory, every shard open and checked against the index.
class SafetensorsModel {
 public:
  /// Opens model.safetensors, else the files of the index. UserError on a missing shard, a tensor
  /// that is in the index but not in its shard, or one that is in a shard but not in the index.
  static SafetensorsModel open(const std::filesystem::path& directory);

  struct Location {
    const SafetensorsFile* file = nullptr;
    const SafetensorsEntry* entry = nullptr;
  };
  /// Sorted by name.
  const std::map<std::string, Location, std::less<>>& tensors() const { return tensors_; }
  /// Null members if there is no such tensor.
  Location find(std::string_view name) const;
  /// The tensor that stands for `name`, which is not stored: writers leave one of two tensors with
  /// the same values out and name the other in the metadata. Empty if there is none.
  std::string alias_of(std::string_view name) const;
  /// The files that were opened.
  std::vector<std::filesystem::path> paths() const;
  /// Names of files in the directory that hold or list weights and were not opened, sorted.
  const std::vector<std::string>& ignored_files() const { return ignored_; }
  /// The metadata of the first file.
  const std::map<std::string, std::string>& metadata() const { return files_.front()->metadata(); }

 private:
  void add_shards(const std::filesystem::path& index_path);
  void add_file(const std::filesystem::path& path, const SafetensorsIndex* index);

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Location, std::less<>> tensors_;
  std::vector<std::string> ignored_;
};

struct SafetensorsShard {
  std::string file_name;
  std::vector<SafetensorsSpec> specs;
};

/// Splits `specs`, order kept, into files of at most `max_shard_bytes` of data (a larger tensor
/// gets a file of its own): "model.safetensors" if one is enough, else
/// "model-00001-of-0000N.safetensors".
std::vector<SafetensorsShard> plan_safetensors_shards(const std::vector<SafetensorsSpec>& specs,
                                                      std::int64_t max_shard_bytes);

/// The index of such shards.
SafetensorsIndex make_safetensors_index(const std::vector<SafetensorsShard>& shards);

}  // namespace thimble
