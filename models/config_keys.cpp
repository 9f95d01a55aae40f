#include "models/config_keys.h"

#include <algorithm>
#include <array>

#include "core/base/error.h"
#include "core/base/text.h"

namespace thimble {
namespace {

using Json = nlohmann::json;

constexpr std::array kHonoured{"model_type",
                               "hidden_size",
                               "intermediate_size",
                               "num_hidden_layers",
                               "num_attention_heads",
                               "num_key_value_heads",
                               "head_dim",
                               "vocab_size",
                               "max_position_embeddings",
                               "original_max_position_embeddings",
                               "rms_norm_eps",
                               "rope_theta",
                               "rope_scaling",
                               "rope_parameters",
                               "hidden_act",
                               "initializer_range",
                               "tie_word_embeddings",
                               "attention_bias",
                               "mlp_bias",
                               "sliding_window",
                               "use_sliding_window",
                               "max_window_layers",
                               "layer_types",
                               "bos_token_id",
                               "eos_token_id",
                               "dtype",
                               "torch_dtype"};

// Without effect on logits: where a model comes from, what else it could be used for, how another
// program runs it, and values of generation_config.json in older files.
constexpr std::array kIrrelevant{"_attn_implementation",
                                 "_attn_implementation_autoset",
                                 "_commit_hash",
                                 "_name_or_path",
                                 "add_cross_attention",
                                 "architectures",
                                 "attention_dropout",
                                 "attn_implementation",
                                 "auto_map",
                                 "bad_words_ids",
                                 "begin_suppress_tokens",
                                 "cache_implementation",
                                 "chunk_size_feed_forward",
                                 "cross_attention_hidden_size",
                                 "decoder_start_token_id",
                                 "diversity_penalty",
                                 "do_sample",
                                 "early_stopping",
                                 "embd_pdrop",
                                 "encoder_no_repeat_ngram_size",
                                 "exponential_decay_length_penalty",
                                 "finetuning_task",
                                 "forced_bos_token_id",
                                 "forced_eos_token_id",
                                 "gradient_checkpointing",
                                 "id2label",
                                 "is_decoder",
                                 "is_encoder_decoder",
                                 "is_llama_config",
                                 "label2id",
                                 "length_penalty",
                                 "max_length",
                                 "max_new_tokens",
                                 "min_length",
                                 "name_or_path",
                                 "no_repeat_ngram_size",
                                 "num_beam_groups",
                                 "num_beams",
                                 "num_labels",
                                 "num_return_sequences",
                                 "output_attentions",
                                 "output_hidden_states",
                                 "output_scores",
                                 "pad_token_id",
                                 "prefix",
                                 "pretraining_tp",
                                 "problem_type",
                                 "remove_invalid_values",
                                 "repetition_penalty",
                                 "resid_pdrop",
                                 "return_dict",
                                 "return_dict_in_generate",
                                 "sep_token_id",
                                 "suppress_tokens",
                                 "task_specific_params",
                                 "temperature",
                                 "tf_legacy_loss",
                                 "tie_encoder_decoder",
                                 "tie_last_hidden_states",
                                 "tokenizer_class",
                                 "top_k",
                                 "top_p",
                                 "torchscript",
                                 "transformers.js_config",
                                 "transformers_version",
                                 "typical_p",
                                 "unsloth_fixed",
                                 "unsloth_version",
                                 "use_bfloat16",
                                 "use_cache"};

// Allowed only with the value that changes nothing; null is one for all of them.
struct Refused {
  const char* key;
  const char* neutral;  // JSON
};
constexpr std::array kRefused{Refused{"attention_chunk_size", "null"},
                              Refused{"attention_multiplier", "null"},
                              Refused{"attn_logit_softcapping", "null"},
                              Refused{"clip_qkv", "null"},
                              Refused{"decoder_sparse_step", "1"},
                              Refused{"embedding_multiplier", "1"},
                              Refused{"final_logit_softcapping", "null"},
                              Refused{"fusion_config", "null"},
                              Refused{"is_causal", "true"},
                              Refused{"logit_scale", "1"},
                              Refused{"logits_scaling", "1"},
                              Refused{"moe_intermediate_size", "null"},
                              Refused{"no_rope_layers", "null"},
                              Refused{"num_experts", "0"},
                              Refused{"num_local_experts", "0"},
                              Refused{"partial_rotary_factor", "1"},
                              Refused{"per_layer_config", "null"},
                              Refused{"pruned_heads", "{}"},
                              Refused{"quantization_config", "null"},
                              Refused{"query_pre_attn_scalar", "null"},
                              Refused{"residual_multiplier", "1"},
                              Refused{"rope_interleaved", "false"},
                              Refused{"transformers_weights", "null"},
                              Refused{"use_bidirectional_attention", "false"}};

constexpr std::array kRopeHonoured{"rope_type",
                                   "type",
                                   "rope_theta",
                                   "factor",
                                   "original_max_position_embeddings",
                                   "low_freq_factor",
                                   "high_freq_factor",
                                   "beta_fast",
                                   "beta_slow",
                                   "attention_factor",
                                   "mscale",
                                   "mscale_all_dim",
                                   "truncate",
                                   "short_factor",
                                   "long_factor",
                                   "finetuned"};  // says only where it comes from

bool is_one_of(const auto& names, const std::string& key) {
  return std::any_of(names.begin(), names.end(), [&](const char* name) { return key == name; });
}

// True if `key` is one whose every other value is refused.
bool check_refused(const ConfigFields& fields, const std::string& key, const Json& value) {
  for (const Refused& r : kRefused) {
    if (key != r.key) continue;
    if (!value.is_null() && value != Json::parse(r.neutral)) {
      fields.wrong(key, std::string_view(r.neutral) == "null"
                            ? "null, for it changes the model in a way that is not supported"
                            : fmt::format("{}, for others change the model in a way that is not "
                                          "supported",
                                          r.neutral));
    }
    return true;
  }
  return false;
}

}  // namespace

std::vector<std::string> check_config_keys(const ConfigFields& config,
                                           std::span<const char* const> own) {
  std::vector<std::string> unknown;
  for (const auto& [key, value] : config.all().items()) {
    if (is_one_of(own, key) || is_one_of(kHonoured, key) || is_one_of(kIrrelevant, key)) continue;
    if (!check_refused(config, key, value)) unknown.push_back(key);
  }
  return unknown;
}

void check_rope_keys(const ConfigFields& rope, std::span<const char* const> own) {
  for (const auto& [key, value] : rope.all().items()) {
    if (is_one_of(own, key) || is_one_of(kRopeHonoured, key) || check_refused(rope, key, value))
      continue;
    rope.wrong(key, "only known fields: " +
                        join(std::vector<std::string>(kRopeHonoured.begin(), kRopeHonoured.end())));
  }
}

}  // namespace thimble
