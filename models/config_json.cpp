// config.json as it is written.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/families.h"
#include "models/model_config.h"
#include "models/rope_config.h"

namespace thimble {
namespace {

using OrderedJson = nlohmann::ordered_json;

void write_scales(const ModelConfig& c, const Family& family, OrderedJson& json) {
  if (family.granite_scales) {
    json["embedding_multiplier"] = c.embedding_scale;
    json["attention_multiplier"] = c.attention_scale;
    json["residual_multiplier"] = c.residual_scale;
    json["logits_scaling"] = c.logits_divisor;
  }
  if (family.gemma_scales) {
    json["query_pre_attn_scalar"] = std::llround(1 / (c.attention_scale * c.attention_scale));
  }
  if (family.soft_caps) {
    const auto cap = [](double value) { return value > 0 ? OrderedJson(value) : OrderedJson(); };
    json["attn_logit_softcapping"] = cap(c.attention_softcap);
    json["final_logit_softcapping"] = cap(c.logits_softcap);
  }
  if (c.rotary_dim > 0) {
    const auto rotary = static_cast<double>(c.rotary_dim), head = static_cast<double>(c.head_dim);
    // Readers cut head_dim * factor down to an integer.
    const double factor = rotary / head;
    json["partial_rotary_factor"] = factor * head < rotary ? std::nextafter(factor, 1.0) : factor;
  }
}

void write_windows(const ModelConfig& c, const Family& family, OrderedJson& json) {
  const auto widest = std::max_element(c.windows.begin(), c.windows.end());
  const std::int64_t window = widest == c.windows.end() ? 0 : *widest;
  if (window > 0) {
    json["sliding_window"] = window;
    if (family.windows == WindowKeys::kByUse) json["use_sliding_window"] = true;
  } else if (family.windows == WindowKeys::kAll) {
    json["sliding_window"] = nullptr;
  } else if (family.windows == WindowKeys::kByUse) {
    json["use_sliding_window"] = false;
  }
  const bool by_layer = (family.windows == WindowKeys::kByUse && window > 0) ||
                        family.windows == WindowKeys::kByPattern;
  for (const std::int64_t w : c.windows) {
    if (by_layer) json["layer_types"].push_back(w > 0 ? "sliding_attention" : "full_attention");
  }
}

}  // namespace

std::string model_config_json(const ModelConfig& c, std::string_view torch_dtype) {
  const Family& family = family_of(c.model_type, "config.json");
  OrderedJson json;
  json["architectures"] = {family.class_name};
  json["model_type"] = c.model_type;
  json["hidden_size"] = c.hidden_size;
  json["intermediate_size"] = c.intermediate_size;
  json["num_hidden_layers"] = c.num_layers;
  json["num_attention_heads"] = c.num_heads;
  json["num_key_value_heads"] = c.num_kv_heads;
  json["head_dim"] = c.head_dim;
  json["vocab_size"] = c.vocab_size;
  json["max_position_embeddings"] = trained_positions(c);
  json["rms_norm_eps"] = c.rms_eps;
  json[family.activation_key] =
      c.activation == Activation::kGeluTanh ? "gelu_pytorch_tanh" : "silu";
  json["initializer_range"] = c.init_std;
  json["tie_word_embeddings"] = c.tied_lm_head;
  if (family.reads_attention_bias) json["attention_bias"] = c.qkv_bias;
  if (family.reads_mlp_bias) json["mlp_bias"] = c.mlp_bias;
  json["rope_theta"] = c.rope_theta;
  if (c.local_rope_theta) json["rope_local_base_freq"] = *c.local_rope_theta;
  const OrderedJson rope = rope_scaling_json(c);
  if (!rope.is_null()) json["rope_scaling"] = rope;
  write_scales(c, family, json);
  write_windows(c, family, json);
  if (c.bos_id) json["bos_token_id"] = *c.bos_id;
  if (c.eos_ids.size() == 1) json["eos_token_id"] = c.eos_ids[0];
  if (c.eos_ids.size() > 1) json["eos_token_id"] = c.eos_ids;
  json["torch_dtype"] = torch_dtype;
  return json.dump(2) + "\n";
}

}  // namespace thimble
