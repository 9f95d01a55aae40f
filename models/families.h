// What transformers takes for a family of models: where its configuration says nothing, and which
// keys the family reads at all. Part of models/: the parser and the writer of config.json go by it,
// the model by the fields of ModelConfig alone.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace thimble {

/// How a family says which layers see a window only.
enum class WindowKeys : std::uint8_t {
  kNone,       // none does
  kAll,        // sliding_window: all of them
  kByUse,      // use_sliding_window, max_window_layers, layer_types
  kByPattern,  // layer_types, or every layer but each window_pattern-th
};

struct Family {
  std::string_view model_type, class_name;
  std::int64_t kv_heads = 0;  // 0: as many as heads
  std::int64_t max_positions = 2048;
  std::int64_t head_dim = 0;  // 0: hidden_size / num_attention_heads
  double rms_eps = 1e-6;
  bool tied = false;
  const char* activation_key = "hidden_act";
  bool gelu = false;  // gelu_pytorch_tanh, else silu
  bool reads_attention_bias = false, reads_mlp_bias = false, always_qkv_bias = false,
       has_out_bias = false;
  bool qk_norm = false, whole_qk_norm = false;
  bool norm_before = true, norm_after = false, unit_norms = false;
  bool fused_projections = false;
  bool granite_scales = false;  // embedding_multiplier and its like
  bool gemma_scales = false;    // sqrt(hidden_size), query_pre_attn_scalar
  bool soft_caps = false;       // attn_logit_softcapping, final_logit_softcapping
  bool reads_partial_rotary = false;
  bool local_rope = false;  // layers with a window have a rope_theta of their own
  WindowKeys windows = WindowKeys::kNone;
  std::int64_t window = 4096;       // 0: none
  std::int64_t window_pattern = 0;  // kByPattern
  double rope_theta = 10000;
  /// Keys that mean something in this family and are refused or unknown in others.
  std::span<const char* const> own_keys = {};
};

/// Throws UserError naming `file` and all families that there are.
const Family& family_of(std::string_view model_type, std::string_view file);

/// "llama, mistral, ...".
std::string family_names();

}  // namespace thimble
