// The shape of a decoder, read from and written to Hugging Face's config.json. What sets families
// apart are fields: nothing but the parser and the writer of config.json knows their names.
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
  enum class Type : std::uint8_t { kDefault, kLinear, kDynamic, kYarn, kLlama3, kLongrope };
  Type type = Type::kDefault;
  double factor = 1;
  std::int64_t original_max_positions = 0;           // 0: the model's max_position_embeddings
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  std::optional<double> attention_factor;            // yarn, longrope; none: by factor
  std::optional<double> mscale, mscale_all_dim;      // yarn
  bool truncate = true;                              // yarn: the ramp begins and ends at whole dims
  // longrope: what divides each frequency up to the original positions, and beyond.
  std::vector<double> short_factor, long_factor;
  friend bool operator==(const RopeScaling&, const RopeScaling&) = default;
};

/// Of the gate of an MLP.
enum class Activation : std::uint8_t { kSilu, kGeluTanh };

struct ModelConfig {
  std::string model_type = "llama";  // see families.cpp
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

  Activation activation = Activation::kSilu;
  bool norm_before = true, norm_after = false;  // of attention and of the MLP
  bool unit_norms = false;                      // norms multiply by 1 + their weights
  bool whole_qk_norm = false;                   // qk_norm over all heads at once, not over each
  double embedding_scale = 1;                   // rounded to the activations' dtype
  double residual_scale = 1;                    // of what attention and MLP add
  double logits_divisor = 1;
  double attention_softcap = 0;            // c > 0: scores s become c tanh(s / c)
  double logits_softcap = 0;               // the same of logits
  double attention_scale = 0;              // 0: 1 / sqrt(head_dim)
  std::int64_t rotary_dim = 0;             // of each head, from its first; 0: all
  std::optional<double> local_rope_theta;  // of layers with a window, which have no scaling
  bool fused_projections = false;          // in files: q, k and v are one matrix, gate and up
  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;

  std::int64_t num_parameters() const;
  std::int64_t rotated() const { return rotary_dim > 0 ? rotary_dim : head_dim; }
  float score_scale() const;
  /// Whether its layers are those of Llama, as far as the fields from `activation` on go.
  bool has_plain_layers() const;
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
