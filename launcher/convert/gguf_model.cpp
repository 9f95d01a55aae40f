#include "launcher/convert/gguf_model.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "models/rope_table.h"

namespace thimble {
namespace {

struct Architecture {
  std::string_view model_type, name;
  bool rotates_neighbours = false;
};
constexpr std::array kArchitectures{
    Architecture{"llama", "llama", true},     Architecture{"mistral", "llama", true},
    Architecture{"qwen2", "qwen2"},           Architecture{"qwen3", "qwen3"},
    Architecture{"granite", "granite", true}, Architecture{"olmo2", "olmo2"}};

const Architecture& architecture_of(const ModelConfig& config) {
  std::vector<std::string_view> names;
  for (const Architecture& a : kArchitectures) {
    if (a.model_type == config.model_type) return a;
    names.push_back(a.model_type);
  }
  throw_user("model_type \"{}\" is not written as GGUF; supported: {}", config.model_type,
             fmt::join(names, ", "));
}

std::uint32_t count(std::int64_t value) {
  return narrow<std::uint32_t>(value);
}

[[noreturn]] void refuse(std::string_view field, std::string_view why) {
  throw_user("config.json: {}: {} (--to hf keeps it)", field, why);
}

const char* scaling_name(RopeScaling::Type type) {
  switch (type) {
    case RopeScaling::Type::kLinear:
      return "linear";
    case RopeScaling::Type::kYarn:
      return "yarn";
    case RopeScaling::Type::kDefault:
    case RopeScaling::Type::kLlama3:  // as a tensor
      return "";
    default:
      refuse("rope_scaling", "GGUF has default, linear, yarn and llama3");
  }
}

// What llama.cpp computes for yarn and has no key for.
void check_yarn(const RopeScaling& s) {
  if (s.type != RopeScaling::Type::kYarn) return;
  if (s.attention_factor || s.mscale || s.mscale_all_dim)
    refuse("rope_scaling", "llama.cpp computes yarn's attention_factor and mscale itself");
  if (s.beta_fast != 32 || s.beta_slow != 1 || !s.truncate)
    refuse("rope_scaling", "llama.cpp has yarn's beta_fast 32, beta_slow 1 and truncate");
}

void add_rope(const ModelConfig& c, const std::string& prefix, GgufKeys& keys) {
  if (c.rotated() != c.head_dim) refuse("partial_rotary_factor", "not written as GGUF");
  keys.emplace_back(prefix + "rope.dimension_count", count(c.head_dim));
  keys.emplace_back(prefix + "rope.freq_base", static_cast<float>(c.rope_theta));
  check_yarn(c.rope_scaling);
  const std::string scaling = scaling_name(c.rope_scaling.type);
  if (scaling.empty()) return;
  keys.emplace_back(prefix + "rope.scaling.type", scaling);
  keys.emplace_back(prefix + "rope.scaling.factor", static_cast<float>(c.rope_scaling.factor));
  const std::int64_t original = c.rope_scaling.original_max_positions;
  keys.emplace_back(prefix + "rope.scaling.original_context_length",
                    count(original > 0 ? original : c.max_positions));
}

void add_scales(const ModelConfig& c, const std::string& prefix, GgufKeys& keys) {
  if (c.model_type == "granite") {
    keys.emplace_back(prefix + "embedding_scale", static_cast<float>(c.embedding_scale));
    keys.emplace_back(prefix + "residual_scale", static_cast<float>(c.residual_scale));
    keys.emplace_back(prefix + "logit_scale", static_cast<float>(c.logits_divisor));
    keys.emplace_back(prefix + "attention.scale", c.score_scale());
  }
}

// The tensors of a layer by their names here. Suffixes stay.
struct LayerName {
  std::string_view ours, theirs;
};
constexpr std::array kLayerNames{LayerName{"input_layernorm", "attn_norm"},
                                 LayerName{"self_attn.q_proj", "attn_q"},
                                 LayerName{"self_attn.k_proj", "attn_k"},
                                 LayerName{"self_attn.v_proj", "attn_v"},
                                 LayerName{"self_attn.o_proj", "attn_output"},
                                 LayerName{"self_attn.q_norm", "attn_q_norm"},
                                 LayerName{"self_attn.k_norm", "attn_k_norm"},
                                 LayerName{"post_attention_layernorm", "ffn_norm"},
                                 LayerName{"post_feedforward_layernorm", "post_ffw_norm"},
                                 LayerName{"mlp.gate_proj", "ffn_gate"},
                                 LayerName{"mlp.up_proj", "ffn_up"},
                                 LayerName{"mlp.down_proj", "ffn_down"}};

// model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight
std::string tensor_name(const ModelConfig& config, const std::string& name) {
  if (name == "model.embed_tokens.weight") return "token_embd.weight";
  if (name == "model.norm.weight") return "output_norm.weight";
  if (name == "lm_head.weight") return "output.weight";
  constexpr std::string_view kLayers = "model.layers.";
  TH_CHECK(name.starts_with(kLayers), "{}", name);
  const std::size_t end = name.find('.', kLayers.size()), suffix = name.rfind('.');
  const std::string layer = name.substr(kLayers.size(), end - kLayers.size());
  const std::string_view part = std::string_view(name).substr(end + 1, suffix - end - 1);
  for (const LayerName& each : kLayerNames) {
    if (each.ours != part) continue;
    // Where no norm comes before attention and MLP, this one comes after attention.
    const std::string_view theirs =
        !config.norm_before && each.theirs == "ffn_norm" ? "post_attention_norm" : each.theirs;
    return fmt::format("blk.{}.{}{}", layer, theirs, name.substr(suffix));
  }
  throw_user("tensor {} has no name in GGUF", name);
}

GgufType matrix_type(const std::string& name, std::int64_t columns, GgufType type) {
  const bool table = name == "token_embd.weight" || name == "output.weight";
  if (type == GgufType::kQ4_0 && table) type = GgufType::kQ8_0;
  return columns % gguf_type(type).block_elements == 0 ? type : GgufType::kF16;
}

// What each frequency of llama3's scaling is divided by.
std::vector<float> llama3_factors(const ModelConfig& config) {
  const std::vector<float> scaled = rope_frequencies(config, config.max_positions).inverse;
  std::vector<float> factors(scaled.size());
  for (std::size_t i = 0; i < scaled.size(); ++i) {
    const double plain = std::pow(
        config.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
    factors[i] = static_cast<float>(plain / static_cast<double>(scaled[i]));
  }
  return factors;
}

}  // namespace

GgufKeys gguf_model_keys(const ModelConfig& c) {
  const std::string name(architecture_of(c).name), prefix = name + ".";
  GgufKeys keys{{"general.architecture", name},
                {prefix + "vocab_size", count(c.vocab_size)},
                {prefix + "context_length", count(c.max_positions)},
                {prefix + "embedding_length", count(c.hidden_size)},
                {prefix + "block_count", count(c.num_layers)},
                {prefix + "feed_forward_length", count(c.intermediate_size)},
                {prefix + "attention.head_count", count(c.num_heads)},
                {prefix + "attention.head_count_kv", count(c.num_kv_heads)},
                {prefix + "attention.key_length", count(c.head_dim)},
                {prefix + "attention.value_length", count(c.head_dim)},
                {prefix + "attention.layer_norm_rms_epsilon", static_cast<float>(c.rms_eps)}};
  add_rope(c, prefix, keys);
  add_scales(c, prefix, keys);
  return keys;
}

std::vector<std::string> gguf_notes(const ModelConfig& c) {
  const bool narrow = std::any_of(c.windows.begin(), c.windows.end(),
                                  [&](std::int64_t w) { return w > 0 && w < c.max_positions; });
  if (!narrow) return {};
  return {
      "sliding windows are not written: llama.cpp lets every layer of this architecture see the "
      "whole context, which is the same up to the window"};
}

std::vector<GgufSource> gguf_tensors(const CheckpointImage& image, GgufType type) {
  const ModelConfig& config = image.origin->config;
  const bool pairs = architecture_of(config).rotates_neighbours;
  std::vector<GgufSource> out;
  const Transformer model(config);
  for (const ParamId id : model.params().ids()) {
    const std::string& ours = model.params().info(id).name;
    const StoredArray& weight = image.params.at(ours).weight;
    GgufSource source{.tensor = {tensor_name(config, ours), GgufType::kF32, weight.shape},
                      .from = &weight};
    if (weight.shape.size() > 1)
      source.tensor.type = matrix_type(source.tensor.name, weight.shape.back(), type);
    const bool rotated =
        ours.find("q_proj") != std::string::npos || ours.find("k_proj") != std::string::npos;
    if (pairs && rotated) source.paired_rows = config.head_dim;
    out.push_back(std::move(source));
  }
  if (config.rope_scaling.type == RopeScaling::Type::kLlama3) {
    std::vector<float> factors = llama3_factors(config);
    GgufTensor tensor{"rope_freqs.weight", GgufType::kF32, {config.head_dim / 2}};
    out.push_back({.tensor = std::move(tensor), .values = std::move(factors)});
  }
  return out;
}

}  // namespace thimble
