#include "models/families.h"

#include <array>
#include <vector>

#include "core/base/error.h"
#include "core/base/text.h"

namespace thimble {
namespace {

constexpr std::array kGraniteKeys{"embedding_multiplier", "attention_multiplier",
                                  "residual_multiplier", "logits_scaling"};
constexpr std::array kPhiKeys{"partial_rotary_factor"};
constexpr std::array kGemma2Keys{"hidden_activation", "query_pre_attn_scalar",
                                 "attn_logit_softcapping", "final_logit_softcapping"};
constexpr std::array kGemma3Keys{"hidden_activation", "query_pre_attn_scalar",
                                 "rope_local_base_freq", "sliding_window_pattern",
                                 "_sliding_window_pattern"};

constexpr std::array kFamilies{Family{.model_type = "llama",
                                      .class_name = "LlamaForCausalLM",
                                      .reads_attention_bias = true,
                                      .reads_mlp_bias = true,
                                      .has_out_bias = true},
                               Family{.model_type = "mistral",
                                      .class_name = "MistralForCausalLM",
                                      .kv_heads = 8,
                                      .max_positions = 131072,
                                      .windows = WindowKeys::kAll},
                               Family{.model_type = "qwen2",
                                      .class_name = "Qwen2ForCausalLM",
                                      .kv_heads = 32,
                                      .max_positions = 32768,
                                      .always_qkv_bias = true,
                                      .windows = WindowKeys::kByUse},
                               Family{.model_type = "qwen3",
                                      .class_name = "Qwen3ForCausalLM",
                                      .kv_heads = 32,
                                      .max_positions = 32768,
                                      .head_dim = 128,
                                      .reads_attention_bias = true,
                                      .has_out_bias = true,
                                      .qk_norm = true,
                                      .windows = WindowKeys::kByUse},
                               Family{.model_type = "granite",
                                      .class_name = "GraniteForCausalLM",
                                      .reads_attention_bias = true,
                                      .reads_mlp_bias = true,
                                      .has_out_bias = true,
                                      .granite_scales = true,
                                      .own_keys = kGraniteKeys},
                               Family{.model_type = "olmo2",
                                      .class_name = "Olmo2ForCausalLM",
                                      .rms_eps = 1e-5,
                                      .reads_attention_bias = true,
                                      .has_out_bias = true,
                                      .qk_norm = true,
                                      .whole_qk_norm = true,
                                      .norm_before = false,
                                      .norm_after = true},
                               Family{.model_type = "phi3",
                                      .class_name = "Phi3ForCausalLM",
                                      .max_positions = 4096,
                                      .rms_eps = 1e-5,
                                      .fused_projections = true,
                                      .reads_partial_rotary = true,
                                      .windows = WindowKeys::kAll,
                                      .window = 0,
                                      .own_keys = kPhiKeys},
                               Family{.model_type = "gemma2",
                                      .class_name = "Gemma2ForCausalLM",
                                      .kv_heads = 4,
                                      .max_positions = 8192,
                                      .head_dim = 256,
                                      .tied = true,
                                      .activation_key = "hidden_activation",
                                      .gelu = true,
                                      .reads_attention_bias = true,
                                      .has_out_bias = true,
                                      .norm_after = true,
                                      .unit_norms = true,
                                      .gemma_scales = true,
                                      .soft_caps = true,
                                      .windows = WindowKeys::kByPattern,
                                      .window_pattern = 2,
                                      .own_keys = kGemma2Keys},
                               Family{.model_type = "gemma3_text",
                                      .class_name = "Gemma3ForCausalLM",
                                      .kv_heads = 4,
                                      .max_positions = 131072,
                                      .head_dim = 256,
                                      .tied = true,
                                      .activation_key = "hidden_activation",
                                      .gelu = true,
                                      .reads_attention_bias = true,
                                      .has_out_bias = true,
                                      .qk_norm = true,
                                      .norm_after = true,
                                      .unit_norms = true,
                                      .gemma_scales = true,
                                      .local_rope = true,
                                      .windows = WindowKeys::kByPattern,
                                      .window_pattern = 6,
                                      .rope_theta = 1e6,
                                      .own_keys = kGemma3Keys}};

}  // namespace

std::string family_names() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies) {
    names.emplace_back(family.model_type);
    if (family.model_type == "llama") names.back() += " (SmolLM2 too)";
    if (family.model_type == "phi3") names.back() += " (Phi-4 too)";
  }
  return join(names, ", ");
}

const Family& family_of(std::string_view model_type, std::string_view file) {
  for (const Family& family : kFamilies) {
    if (family.model_type == model_type) return family;
  }
  if (model_type == "gemma3") {
    throw_user(
        "{}: model_type 'gemma3' also takes images, which is not supported; the text models of the "
        "family are gemma3_text",
        file);
  }
  throw_user("{}: model_type '{}' is not supported; supported: {}", file, printable(model_type),
             family_names());
}

}  // namespace thimble
