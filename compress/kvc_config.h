// kvc_config.json: what a compressor is, which model it belongs to, and what a cache keeps with it.
// Beside it lie its tensors, kvc.safetensors (kvc_file.h).
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "compress/compressor_config.h"
#include "compress/kv_options.h"

namespace thimble {

inline constexpr const char* kKvcConfigName = "kvc_config.json";
inline constexpr const char* kKvcFileName = "kvc.safetensors";

/// The model that a compressor belongs to, which works with no other.
struct KvcBase {
  std::string arch;  // model_type of config.json
  std::int64_t hidden_size = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  double rope_theta = 0;
  std::int64_t max_positions = 0;
  std::string weights_sha256;
  friend bool operator==(const KvcBase&, const KvcBase&) = default;
};

/// How it was trained; for people.
struct KvcTraining {
  std::string data;
  std::int64_t steps = 0;
  double lr = 0;
  std::uint64_t seed = 0;
};

struct KvcConfig {
  KvcBase base;
  RopeStage rope_stage = RopeStage::kPost;
  PositionPolicy positions = PositionPolicy::kOriginal;
  CompressorConfig compressor;
  HeadActivation activation = HeadActivation::kSilu;
  KvcTraining training;
};

std::string kvc_config_json(const KvcConfig& config);

/// Throws UserError naming `file` and the field: not JSON, a field that is missing, mistyped or out
/// of range, a stage of an unknown type, none or several.
KvcConfig parse_kvc_config(std::string_view text, std::string_view file);
KvcConfig load_kvc_config(const std::filesystem::path& directory);

/// Whether a compressor lies there.
bool is_compressor_directory(const std::filesystem::path& directory);

/// Throws UserError, naming `directory`, if the compressor belongs to a model of another shape than
/// `model`, or, unless `any_weights`, of other weights.
void check_base(const KvcConfig& config, const KvcBase& model,
                const std::filesystem::path& directory, bool any_weights);

}  // namespace thimble
