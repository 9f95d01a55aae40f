// What is trained beside a frozen model, in PEFT's terms, and its adapter_config.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/ops/packed_ops.h"
#include "models/model_config.h"

namespace thimble {

enum class AdapterKind : std::uint8_t { kLora, kVera, kIa3 };
enum class AdapterInit : std::uint8_t {
  kDefault,   // a uniform as torch's linear layers are, b zero: the model itself
  kGaussian,  // a normal with a standard deviation of 1 / r, b zero
  kPissa,     // the largest singular values of the weight, which keeps the rest
};

/// Every linear layer but the LM head.
inline constexpr std::string_view kAllLinear = "all-linear";

struct AdapterConfig {
  AdapterKind kind = AdapterKind::kLora;
  std::int64_t rank = 8;
  double alpha = 8;
  bool rank_stabilised = false;  // scaled by alpha / sqrt(r) instead of alpha / r
  bool dora = false;
  bool freezes_a = false;  // LoRA-FA: only b is trained
  AdapterInit init = AdapterInit::kDefault;
  /// Names of modules: the last part ("q_proj"), the last parts or all of it; or kAllLinear.
  std::vector<std::string> target_modules{std::string(kAllLinear)};
  std::vector<std::string> feedforward_modules;  // of IA3: those whose input is scaled
  std::vector<std::string> modules_to_save;      // trained as a whole, by the same names
  std::vector<std::int64_t> layers;              // empty: all
  /// By module, over `rank` and `alpha`: regular expressions for the end of its name, of which the
  /// first that matches counts.
  std::vector<std::pair<std::string, std::int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
  /// How the model's linear layers are kept; none: in the dtype that it computes with.
  std::optional<PackedFormat> base = {};

  /// Whether a linear layer has an adapter, as far as names go.
  bool targets(std::string_view module) const;
  friend bool operator==(const AdapterConfig&, const AdapterConfig&) = default;
};

/// Of one matrix.
struct AdapterShape {
  std::int64_t rank = 0;
  double scale = 1;
};
/// `module`: the matrix's name without ".weight".
AdapterShape adapter_shape(const AdapterConfig& config, std::string_view module);

/// Whether a list of names has this module, by its last parts.
bool names_module(const std::vector<std::string>& names, std::string_view module);

inline constexpr const char* kAdapterConfigName = "adapter_config.json";
inline constexpr const char* kAdapterFileName = "adapter_model.safetensors";

bool is_adapter_directory(const std::filesystem::path& directory);

struct AdapterFileConfig {
  AdapterConfig adapter;
  std::string base_model;  // as written there; empty: not
};

/// Reads PEFT's file; target_modules that are a regular expression are left empty. Throws UserError
/// naming the file and the field: a type, or an option that would change the result and is not
/// honoured here.
AdapterFileConfig load_adapter_config(const std::filesystem::path& directory);
AdapterFileConfig parse_adapter_config(std::string_view text, std::string_view file);

/// The file that PEFT opens.
std::string adapter_config_json(const AdapterConfig& config, const std::string& base_model);

}  // namespace thimble
