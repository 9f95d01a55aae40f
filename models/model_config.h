// The shape of a decoder of the Llama family, read from and written to Hugging Face's config.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace thimble {

/// RoPE scaling: how frequencies are stretched beyond the trained context. Names as in
/// transformers.
struct RopeScaling {
  enum class Type : std::uint8_t { kDefault, kLinear, kDynamic, kYarn, kLlama3 };
  Type type = Type::kDefault;
  double factor = 1;
  std::int64_t original_max_positions = 0;           // 0: the model's max_position_embeddings
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  std::optional<double> attention_factor;            // yarn; default 0.1 ln(factor) + 1
  std::optional<double> mscale, mscale_all_dim;      // yarn
  bool truncate = true;                              // yarn: the ramp begins and ends at whole dims
  friend bool operator==(const RopeScaling&, const RopeScaling&) = default;
};

struct ModelConfig {
  std::string model_type = "llama";  // llama, mistral, qwen2, qwen3
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_layers = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t vocab_size = 0;
  std::int64_t max_positions = 0;
  double rms_eps = 1e-6;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  bool tied_lm_head = false;
  bool qkv_bias = false, out_bias = false, mlp_bias = false;
  bool qk_norm = false;
  std::vector<std::int64_t> windows;  // per layer; 0 = full attention
  double init_std = 0.02;
  std::optional<std::int32_t> bos_id;
  std::vector<std::int32_t> eos_ids;
  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;

  std::int64_t num_parameters() const;
  /// FLOPs per token of a training step (forward and backward, causal half of attention, embedding
  /// look-up not counted): 6 * matrix parameters + 6 * layers * heads * head_dim * seq_len.
  double train_flops_per_token(std::int64_t seq_len) const;
};

/// Called with notes for the user about what was read.
using NoteFn = std::function<void(const std::string&)>;

/// Parses config.json text with the defaults and precedence of transformers. Every key is honoured,
/// on the list of those without effect, refused by name, or, if it is on no list, noted: for these
/// families transformers ignores it. Throws UserError naming `file` and the field: unsupported
/// architecture or activation, a missing or mistyped field, a number out of range, sizes that do
/// not divide.
ModelConfig parse_model_config(std::string_view text, std::string_view file,
                               const NoteFn& note = {});
ModelConfig load_model_config(const std::filesystem::path& file, const NoteFn& note = {});

/// config.json that transformers opens; `torch_dtype` is "bfloat16" or "float32".
std::string model_config_json(const ModelConfig& config, std::string_view torch_dtype);

/// LLaMA sizes by name, most of them the GaLore paper's: "20m", "60m", "130m", "350m", "1b", "2b",
/// "7b" (vocabulary 32000, untied).
std::optional<ModelConfig> named_model_config(std::string_view size);
/// Their names, "20m, 60m, ...".
std::string model_config_names();

}  // namespace thimble
