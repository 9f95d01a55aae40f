#include "models/model_config.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/io/file.h"
#include "core/io/strict_json.h"
#include "models/config_fields.h"
#include "models/config_keys.h"
#include "models/families.h"
#include "models/rope_config.h"

namespace thimble {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kConfigLimitBytes = std::int64_t{1} << 20;

constexpr std::int64_t kDefaultMaxWindowLayers = 28, kDefaultQueryScalar = 256;

void parse_activation(const ConfigFields& f, const Family& family, ModelConfig& c) {
  const std::string name =
      f.string(family.activation_key, family.gelu ? "gelu_pytorch_tanh" : "silu");
  if (name == "silu" || name == "swish") {
    c.activation = Activation::kSilu;
  } else if (name == "gelu_pytorch_tanh" || name == "gelu_new") {
    c.activation = Activation::kGeluTanh;
  } else {
    throw_user(
        "{}: {} '{}' is not supported; supported: silu, which is also called swish, and "
        "gelu_pytorch_tanh",
        f.file(), family.activation_key, printable(name));
  }
}

void parse_architecture(const ConfigFields& f, const Family& family, ModelConfig& c) {
  parse_activation(f, family, c);
  const bool attention_bias = family.reads_attention_bias && f.boolean("attention_bias", false);
  c.qkv_bias = family.always_qkv_bias || attention_bias;
  c.out_bias = family.has_out_bias && attention_bias;
  c.mlp_bias = family.reads_mlp_bias && f.boolean("mlp_bias", false);
  c.qk_norm = family.qk_norm;
  c.whole_qk_norm = family.whole_qk_norm;
  c.norm_before = family.norm_before;
  c.norm_after = family.norm_after;
  c.unit_norms = family.unit_norms;
  c.fused_projections = family.fused_projections;
}

// After the sizes.
void parse_scales(const ConfigFields& f, const Family& family, ModelConfig& c) {
  if (family.granite_scales) {
    c.embedding_scale = f.number("embedding_multiplier", kPositive, 1.0);
    c.residual_scale = f.number("residual_multiplier", kPositive, 1.0);
    c.attention_scale = f.number("attention_multiplier", kPositive, 1.0);
    c.logits_divisor = f.number("logits_scaling", kPositive, 1.0);
  }
  if (family.gemma_scales) {
    c.embedding_scale = std::sqrt(static_cast<double>(c.hidden_size));
    c.attention_scale =
        1 / std::sqrt(static_cast<double>(f.size("query_pre_attn_scalar", kDefaultQueryScalar)));
  }
  if (family.soft_caps) {
    const auto cap = [&](const char* key, double fallback) {
      return f.has(key) ? f.maybe_number(key, kPositive).value_or(0) : fallback;
    };
    c.attention_softcap = cap("attn_logit_softcapping", 50);
    c.logits_softcap = cap("final_logit_softcapping", 30);
  }
}

void parse_rotary_part(const ConfigFields& f, const Family& family, ModelConfig& c) {
  if (!family.reads_partial_rotary) return;
  const double part = rotary_part(f);
  c.rotary_dim = static_cast<std::int64_t>(static_cast<double>(c.head_dim) * part);
  if (c.rotary_dim < 2 || c.rotary_dim % 2 != 0) {
    throw_user(
        "{}: partial_rotary_factor = {:g}: {} of heads of {} are rotated; allowed: an even "
        "number from 2",
        f.file(), part, c.rotary_dim, c.head_dim);
  }
  if (c.rotary_dim == c.head_dim) c.rotary_dim = 0;
}

void parse_sizes(const ConfigFields& f, const Family& family, ModelConfig& c) {
  c.hidden_size = f.size("hidden_size");
  c.intermediate_size = f.size("intermediate_size");
  c.num_layers = f.size("num_hidden_layers");
  if (c.num_layers > 4096)
    throw_user("{}: num_hidden_layers = {}: allowed 1 to 4096", f.file(), c.num_layers);
  c.num_heads = f.size("num_attention_heads");
  const bool kv_given = f.has("num_key_value_heads");  // null: as many as heads
  c.num_kv_heads = f.maybe_size("num_key_value_heads")
                       .value_or(kv_given || family.kv_heads == 0 ? c.num_heads : family.kv_heads);
  c.vocab_size = f.size("vocab_size");
  c.max_positions = f.size("max_position_embeddings", family.max_positions);
  const bool divides = c.hidden_size % c.num_heads == 0;
  const bool default_head = !f.has_value("head_dim") && family.head_dim == 0;
  // transformers refuses it for llama whatever head_dim is.
  if (!divides && (default_head || family.model_type == "llama")) {
    throw_user("{}: hidden_size {} is not a multiple of num_attention_heads {}", f.file(),
               c.hidden_size, c.num_heads);
  }
  c.head_dim = family.head_dim > 0 ? f.size("head_dim", family.head_dim)
                                   : f.maybe_size("head_dim").value_or(c.hidden_size / c.num_heads);
  if (c.num_heads % c.num_kv_heads != 0) {
    throw_user("{}: num_attention_heads {} is not a multiple of num_key_value_heads {}", f.file(),
               c.num_heads, c.num_kv_heads);
  }
  if (c.head_dim % 2 != 0)
    throw_user("{}: head_dim = {}: must be even for rotary embedding", f.file(), c.head_dim);
}

// layer_types of all layers: whether each sees a window only.
std::vector<bool> layer_types(const ConfigFields& f, std::int64_t layers) {
  std::vector<bool> sliding;
  const Json& types = f.raw("layer_types");
  if (!types.is_array() || static_cast<std::int64_t>(types.size()) != layers) {
    f.wrong("layer_types", fmt::format("a list of num_hidden_layers = {} types", layers));
  }
  for (const Json& type : types) {
    sliding.push_back(type == "sliding_attention");
    if (!sliding.back() && type != "full_attention")
      f.wrong("layer_types", "full_attention and sliding_attention");
  }
  return sliding;
}

// Which layers see a window only, where use_sliding_window or the like says so. any: whether one
// may.
std::vector<bool> layers_by_use(const ConfigFields& f, std::int64_t layers, bool any) {
  std::vector<bool> sliding;
  if (!f.has_value("layer_types")) {
    const std::int64_t first = f.size("max_window_layers", kDefaultMaxWindowLayers, 0);
    for (std::int64_t l = 0; l < layers; ++l) sliding.push_back(any && l >= first);
    return sliding;
  }
  sliding = layer_types(f, layers);
  if (!any && std::find(sliding.begin(), sliding.end(), true) != sliding.end()) {
    f.wrong("layer_types",
            "full_attention only, for use_sliding_window is false or sliding_window is null");
  }
  return sliding;
}

// Every layer but each pattern-th, unless layer_types says otherwise.
std::vector<bool> layers_by_pattern(const ConfigFields& f, const Family& family,
                                    std::int64_t layers) {
  if (f.has_value("layer_types")) return layer_types(f, layers);
  const std::int64_t pattern =
      f.size("sliding_window_pattern", f.size("_sliding_window_pattern", family.window_pattern));
  std::vector<bool> sliding;
  for (std::int64_t l = 0; l < layers; ++l) sliding.push_back((l + 1) % pattern != 0);
  return sliding;
}

void parse_windows(const ConfigFields& f, const Family& family, ModelConfig& c) {
  const auto layers = static_cast<std::size_t>(c.num_layers);
  c.windows.assign(layers, 0);
  if (family.windows == WindowKeys::kNone) return;
  if (family.windows == WindowKeys::kByUse && !f.boolean("use_sliding_window", false)) {
    static_cast<void>(layers_by_use(f, c.num_layers, false));
    return;
  }
  std::optional<std::int64_t> window = f.maybe_size("sliding_window");
  if (!f.has("sliding_window") && family.window > 0) window = family.window;
  const std::vector<bool> sliding =
      family.windows == WindowKeys::kByUse ? layers_by_use(f, c.num_layers, window.has_value())
      : family.windows == WindowKeys::kByPattern ? layers_by_pattern(f, family, c.num_layers)
                                                 : std::vector<bool>(layers, window.has_value());
  for (std::size_t l = 0; l < layers; ++l) {
    if (!sliding[l]) continue;
    if (!window) f.wrong("sliding_window", "the width of the window that layers have");
    c.windows[l] = *window;
  }
}

void parse_special_ids(const ConfigFields& f, ModelConfig& config) {
  const auto id = [&](const char* key, const Json& value) {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() >= kConfigSizeLimit)
      f.wrong(key, fmt::format("token ids from 0 to {}", kConfigSizeLimit - 1));
    return static_cast<std::int32_t>(value.get<std::int64_t>());
  };
  if (f.has_value("bos_token_id")) config.bos_id = id("bos_token_id", f.raw("bos_token_id"));
  if (!f.has_value("eos_token_id")) return;
  const Json& eos = f.raw("eos_token_id");
  if (eos.is_array()) {
    for (const Json& e : eos) config.eos_ids.push_back(id("eos_token_id", e));
  } else {
    config.eos_ids.push_back(id("eos_token_id", eos));
  }
}

}  // namespace

ModelConfig parse_model_config(std::string_view text, std::string_view file, const NoteFn& note) {
  const Json json = parse_strict_json(text, file);
  if (!json.is_object()) throw_user("{}: not a JSON object", file);
  const ConfigFields f(json, file);
  ModelConfig c;
  c.model_type = f.string("model_type");
  const Family& family = family_of(c.model_type, file);
  const std::vector<std::string> unknown = check_config_keys(f, family.own_keys);
  if (note && !unknown.empty()) {
    note(fmt::format("{}: not used, as in transformers: {}", file, printable(join(unknown), 400)));
  }
  parse_architecture(f, family, c);
  parse_sizes(f, family, c);
  parse_scales(f, family, c);
  parse_rotary_part(f, family, c);
  c.rms_eps = f.number("rms_norm_eps", kNotNegative, family.rms_eps);
  c.tied_lm_head = f.boolean("tie_word_embeddings", family.tied);
  c.init_std = f.number("initializer_range", {0, 1}, 0.02);
  parse_rope(f, family, c, note);
  parse_windows(f, family, c);
  parse_special_ids(f, c);
  return c;
}

ModelConfig load_model_config(const std::filesystem::path& file, const NoteFn& note) {
  return parse_model_config(read_text_file(file, kConfigLimitBytes), file.string(), note);
}

std::int64_t ModelConfig::num_parameters() const {
  const std::int64_t q = num_heads * head_dim, kv = num_kv_heads * head_dim;
  const std::int64_t norms = (norm_before ? 2 : 0) + (norm_after ? 2 : 0);
  std::int64_t layer =
      hidden_size * (2 * q + 2 * kv) + 3 * hidden_size * intermediate_size + norms * hidden_size;
  if (qkv_bias) layer += q + 2 * kv;
  if (out_bias) layer += hidden_size;
  if (mlp_bias) layer += 2 * intermediate_size + hidden_size;
  if (qk_norm) layer += whole_qk_norm ? q + kv : 2 * head_dim;
  return num_layers * layer + vocab_size * hidden_size * (tied_lm_head ? 1 : 2) + hidden_size;
}

float ModelConfig::score_scale() const {
  return attention_scale > 0 ? static_cast<float>(attention_scale)
                             : 1.0f / std::sqrt(static_cast<float>(head_dim));
}

bool ModelConfig::has_plain_layers() const {
  return activation == Activation::kSilu && norm_before && !norm_after && !unit_norms &&
         !whole_qk_norm && embedding_scale == 1 && residual_scale == 1 && logits_divisor == 1 &&
         attention_scale == 0 && attention_softcap == 0 && logits_softcap == 0 && rotary_dim == 0 &&
         !local_rope_theta;
}

double ModelConfig::train_flops_per_token(std::int64_t seq_len) const {
  const std::int64_t q = num_heads * head_dim, kv = num_kv_heads * head_dim;
  const std::int64_t matrices =
      num_layers * (hidden_size * (2 * q + 2 * kv) + 3 * hidden_size * intermediate_size) +
      vocab_size * hidden_size;
  return 6.0 * static_cast<double>(matrices) + 6.0 * static_cast<double>(num_layers * q * seq_len);
}

}  // namespace thimble
