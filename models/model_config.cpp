#include "models/model_config.h"

#include <algorithm>
#include <array>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/io/file.h"
#include "core/io/strict_json.h"
#include "models/config_fields.h"
#include "models/config_keys.h"
#include "models/rope_config.h"

namespace thimble {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kConfigLimitBytes = std::int64_t{1} << 20;

// What transformers takes for a family: where its configuration says nothing, and what of it the
// family reads at all.
struct Family {
  std::string_view model_type, class_name;
  std::int64_t kv_heads;  // 0: as many as heads
  std::int64_t max_positions;
  std::int64_t head_dim;  // 0: hidden_size / num_attention_heads
  bool reads_attention_bias, reads_mlp_bias, always_qkv_bias, has_out_bias, qk_norm;
  bool windows_by_layer;  // layer_types, use_sliding_window, max_window_layers
};
constexpr std::array kFamilies{
    Family{"llama", "LlamaForCausalLM", 0, 2048, 0, true, true, false, true, false, false},
    Family{"mistral", "MistralForCausalLM", 8, 131072, 0, false, false, false, false, false, false},
    Family{"qwen2", "Qwen2ForCausalLM", 32, 32768, 0, false, false, true, false, false, true},
    Family{"qwen3", "Qwen3ForCausalLM", 32, 32768, 128, true, false, false, true, true, true}};
constexpr std::int64_t kDefaultWindow = 4096, kDefaultMaxWindowLayers = 28;

const Family& family_of(std::string_view model_type, std::string_view file) {
  for (const Family& family : kFamilies) {
    if (family.model_type == model_type) return family;
  }
  throw_user(
      "{}: model_type '{}' is not supported; supported: llama (SmolLM2 too), mistral, qwen2, "
      "qwen3",
      file, printable(model_type));
}

void parse_architecture(const ConfigFields& f, const Family& family, ModelConfig& c) {
  const std::string activation = f.string("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    throw_user("{}: hidden_act '{}' is not supported; supported: silu, which is also called swish",
               f.file(), printable(activation));
  }
  const bool attention_bias = family.reads_attention_bias && f.boolean("attention_bias", false);
  c.qkv_bias = family.always_qkv_bias || attention_bias;
  c.out_bias = family.has_out_bias && attention_bias;
  c.mlp_bias = family.reads_mlp_bias && f.boolean("mlp_bias", false);
  c.qk_norm = family.qk_norm;
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
  const bool default_lm_head = !f.has_value("head_dim") && family.head_dim == 0;
  // transformers refuses it for llama whatever head_dim is.
  if (!divides && (default_lm_head || family.model_type == "llama")) {
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

// Which layers of qwen2 and qwen3 see a window only.
std::vector<bool> sliding_layers(const ConfigFields& f, std::int64_t layers, bool any) {
  std::vector<bool> sliding;
  if (!f.has_value("layer_types")) {
    const std::int64_t first = f.size("max_window_layers", kDefaultMaxWindowLayers, 0);
    for (std::int64_t l = 0; l < layers; ++l) sliding.push_back(any && l >= first);
    return sliding;
  }
  const Json& types = f.raw("layer_types");
  if (!types.is_array() || static_cast<std::int64_t>(types.size()) != layers) {
    f.wrong("layer_types", fmt::format("a list of num_hidden_layers = {} types", layers));
  }
  for (const Json& type : types) {
    sliding.push_back(type == "sliding_attention");
    if (!sliding.back() && type != "full_attention")
      f.wrong("layer_types", "full_attention and sliding_attention");
    if (sliding.back() && !any) {
      f.wrong("layer_types",
              "full_attention only, for use_sliding_window is false or sliding_window is null");
    }
  }
  return sliding;
}

void parse_windows(const ConfigFields& f, const Family& family, ModelConfig& c) {
  c.windows.assign(static_cast<std::size_t>(c.num_layers), 0);
  if (family.model_type == "llama") return;
  if (family.windows_by_layer && !f.boolean("use_sliding_window", false)) {
    static_cast<void>(sliding_layers(f, c.num_layers, false));
    return;
  }
  const std::optional<std::int64_t> window =
      f.has("sliding_window") ? f.maybe_size("sliding_window") : std::optional(kDefaultWindow);
  const std::vector<bool> sliding =
      family.windows_by_layer
          ? sliding_layers(f, c.num_layers, window.has_value())
          : std::vector<bool>(static_cast<std::size_t>(c.num_layers), window.has_value());
  for (std::size_t l = 0; l < sliding.size(); ++l) {
    if (sliding[l]) c.windows[l] = *window;
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
  const std::vector<std::string> unknown = check_config_keys(f);
  if (note && !unknown.empty()) {
    note(fmt::format("{}: not used, as in transformers: {}", file, printable(join(unknown), 400)));
  }
  parse_architecture(f, family, c);
  parse_sizes(f, family, c);
  c.rms_eps = f.number("rms_norm_eps", kNotNegative, 1e-6);
  c.tied_lm_head = f.boolean("tie_word_embeddings", false);
  c.init_std = f.number("initializer_range", {0, 1}, 0.02);
  parse_rope(f, c, note);
  parse_windows(f, family, c);
  parse_special_ids(f, c);
  return c;
}

ModelConfig load_model_config(const std::filesystem::path& file, const NoteFn& note) {
  return parse_model_config(read_text_file(file, kConfigLimitBytes), file.string(), note);
}

std::int64_t ModelConfig::num_parameters() const {
  const std::int64_t q = num_heads * head_dim, kv = num_kv_heads * head_dim;
  std::int64_t layer =
      hidden_size * (2 * q + 2 * kv) + 3 * hidden_size * intermediate_size + 2 * hidden_size;
  if (qkv_bias) layer += q + 2 * kv;
  if (out_bias) layer += hidden_size;
  if (mlp_bias) layer += 2 * intermediate_size + hidden_size;
  if (qk_norm) layer += 2 * head_dim;
  return num_layers * layer + vocab_size * hidden_size * (tied_lm_head ? 1 : 2) + hidden_size;
}

double ModelConfig::train_flops_per_token(std::int64_t seq_len) const {
  const std::int64_t q = num_heads * head_dim, kv = num_kv_heads * head_dim;
  const std::int64_t matrices =
      num_layers * (hidden_size * (2 * q + 2 * kv) + 3 * hidden_size * intermediate_size) +
      vocab_size * hidden_size;
  return 6.0 * static_cast<double>(matrices) + 6.0 * static_cast<double>(num_layers * q * seq_len);
}

std::string model_config_json(const ModelConfig& c, std::string_view torch_dtype) {
  const Family& family = family_of(c.model_type, "config.json");
  nlohmann::ordered_json json;
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
  json["hidden_act"] = "silu";
  json["initializer_range"] = c.init_std;
  json["tie_word_embeddings"] = c.tied_lm_head;
  if (family.reads_attention_bias) json["attention_bias"] = c.qkv_bias;
  if (family.reads_mlp_bias) json["mlp_bias"] = c.mlp_bias;
  json["rope_theta"] = c.rope_theta;
  const nlohmann::ordered_json rope = rope_scaling_json(c);
  if (!rope.is_null()) json["rope_scaling"] = rope;
  const auto widest = std::max_element(c.windows.begin(), c.windows.end());
  const std::int64_t window = widest == c.windows.end() ? 0 : *widest;
  if (window > 0) {
    json["sliding_window"] = window;
    if (family.windows_by_layer) {
      json["use_sliding_window"] = true;
      for (const std::int64_t w : c.windows)
        json["layer_types"].push_back(w > 0 ? "sliding_attention" : "full_attention");
    }
  } else if (family.model_type == "mistral") {
    json["sliding_window"] = nullptr;
  } else if (family.windows_by_layer) {
    json["use_sliding_window"] = false;
  }
  if (c.bos_id) json["bos_token_id"] = *c.bos_id;
  if (c.eos_ids.size() == 1) json["eos_token_id"] = c.eos_ids[0];
  if (c.eos_ids.size() > 1) json["eos_token_id"] = c.eos_ids;
  json["torch_dtype"] = torch_dtype;
  return json.dump(2) + "\n";
}

}  // namespace thimble
