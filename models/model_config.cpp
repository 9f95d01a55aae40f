#include "models/model_config.h"

#include <array>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/io/file.h"

namespace thimble {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kConfigLimitBytes = std::int64_t{1} << 20;
constexpr std::int64_t kSizeLimit = std::int64_t{1} << 24;

// Typed access to the fields of one JSON object, with errors that name file and field.
class Fields {
 public:
  Fields(const Json& json, std::string_view file, std::string prefix = "")
      : json_(json), file_(file), prefix_(std::move(prefix)) {}

  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }

  std::int64_t integer(const char* key, std::optional<std::int64_t> fallback = {}) const {
    if (!has(key)) return fallback ? *fallback : missing<std::int64_t>(key);
    const Json& v = json_[key];
    if (!v.is_number_integer()) wrong(key, "an integer");
    if (v.is_number_unsigned() && v.get<std::uint64_t>() > static_cast<std::uint64_t>(kSizeLimit)) {
      throw_user("{}: {}{} = {}: allowed up to {}", file_, prefix_, key, v.get<std::uint64_t>(),
                 kSizeLimit);
    }
    return v.get<std::int64_t>();
  }
  std::int64_t size(const char* key, std::optional<std::int64_t> fallback = {}) const {
    const std::int64_t value = integer(key, fallback);
    if (value < 1 || value > kSizeLimit) {
      throw_user("{}: {}{} = {}: allowed 1 to {}", file_, prefix_, key, value, kSizeLimit);
    }
    return value;
  }
  double number(const char* key, std::optional<double> fallback = {}) const {
    if (!has(key)) return fallback ? *fallback : missing<double>(key);
    if (!json_[key].is_number()) wrong(key, "a number");
    return json_[key].get<double>();
  }
  bool boolean(const char* key, bool fallback) const {
    if (!has(key)) return fallback;
    if (!json_[key].is_boolean()) wrong(key, "true or false");
    return json_[key].get<bool>();
  }
  std::string string(const char* key, std::optional<std::string> fallback = {}) const {
    if (!has(key)) return fallback ? *fallback : missing<std::string>(key);
    if (!json_[key].is_string()) wrong(key, "a string");
    return json_[key].get<std::string>();
  }
  std::optional<double> maybe_number(const char* key) const {
    return has(key) ? std::optional(number(key)) : std::nullopt;
  }
  const Json& raw(const char* key) const { return json_[key]; }
  std::string_view file() const { return file_; }

  [[noreturn]] void wrong(const char* key, std::string_view allowed) const {
    throw_user("{}: {}{} is {}, expected {}", file_, prefix_, key, printable(json_[key].dump(), 60),
               allowed);
  }

 private:
  template <typename T>
  [[noreturn]] T missing(const char* key) const {
    throw_user("{}: {}{} is missing", file_, prefix_, key);
  }
  const Json& json_;
  std::string_view file_;
  std::string prefix_;
};

constexpr std::array<std::pair<std::string_view, RopeScaling::Type>, 5> kRopeTypes{{
    {"default", RopeScaling::Type::kDefault},
    {"linear", RopeScaling::Type::kLinear},
    {"dynamic", RopeScaling::Type::kDynamic},
    {"yarn", RopeScaling::Type::kYarn},
    {"llama3", RopeScaling::Type::kLlama3},
}};

// Reads both spellings: rope_theta + rope_scaling, and rope_parameters.
void parse_rope(const Fields& top, ModelConfig& config) {
  const bool joined = top.has("rope_parameters");
  const char* key = joined ? "rope_parameters" : "rope_scaling";
  config.rope_theta = top.number("rope_theta", 10000.0);
  if (!top.has(key)) return;
  if (!top.raw(key).is_object()) top.wrong(key, "an object");
  const Fields rope(top.raw(key), top.file(), std::string(key) + ".");
  if (joined) config.rope_theta = rope.number("rope_theta", config.rope_theta);
  const std::string type = rope.string("rope_type", rope.string("type", "default"));
  RopeScaling& s = config.rope_scaling;
  bool known = false;
  for (const auto& [name, value] : kRopeTypes) {
    if (type != name) continue;
    s.type = value;
    known = true;
  }
  if (!known) {
    throw_user(
        "{}: {}.rope_type '{}' is not supported; supported: default, linear, dynamic, yarn, llama3",
        top.file(), key, printable(type));
  }
  if (s.type == RopeScaling::Type::kDefault) return;
  s.factor = rope.number("factor");
  s.original_max_positions = rope.integer("original_max_position_embeddings", 0);
  s.low_freq_factor = rope.number("low_freq_factor", 1.0);
  s.high_freq_factor = rope.number("high_freq_factor", 4.0);
  s.beta_fast = rope.number("beta_fast", 32.0);
  s.beta_slow = rope.number("beta_slow", 1.0);
  s.attention_factor = rope.maybe_number("attention_factor");
  s.mscale = rope.maybe_number("mscale");
  s.mscale_all_dim = rope.maybe_number("mscale_all_dim");
  if (!(s.factor >= 1.0) || s.original_max_positions < 0) {
    throw_user("{}: {}.factor = {}: allowed >= 1", top.file(), key, s.factor);
  }
}

void parse_windows(const Fields& f, ModelConfig& config) {
  config.windows.assign(static_cast<std::size_t>(config.num_layers), 0);
  const bool optional = config.model_type == "qwen2" || config.model_type == "qwen3";
  if (!f.has("sliding_window") || (optional && !f.boolean("use_sliding_window", false))) return;
  if (config.model_type == "llama") return;
  const std::int64_t window = f.size("sliding_window");
  const std::int64_t first = optional ? f.integer("max_window_layers", 0) : 0;
  for (std::int64_t l = 0; l < config.num_layers; ++l) {
    bool sliding = l >= first;
    if (f.has("layer_types") && f.raw("layer_types").is_array() &&
        static_cast<std::int64_t>(f.raw("layer_types").size()) == config.num_layers) {
      sliding = f.raw("layer_types")[static_cast<std::size_t>(l)] == "sliding_attention";
    }
    if (sliding) config.windows[static_cast<std::size_t>(l)] = window;
  }
}

void parse_special_ids(const Fields& f, ModelConfig& config) {
  const auto id = [&](const char* key, const Json& value) {
    if (!value.is_number_integer() || value.get<std::int64_t>() < 0 ||
        value.get<std::int64_t>() >= kSizeLimit) {
      f.wrong(key, "a token id");
    }
    return static_cast<std::int32_t>(value.get<std::int64_t>());
  };
  if (f.has("bos_token_id")) config.bos_id = id("bos_token_id", f.raw("bos_token_id"));
  if (!f.has("eos_token_id")) return;
  const Json& eos = f.raw("eos_token_id");
  if (eos.is_array()) {
    for (const Json& e : eos) config.eos_ids.push_back(id("eos_token_id", e));
  } else {
    config.eos_ids.push_back(id("eos_token_id", eos));
  }
}

void parse_architecture(const Fields& f, ModelConfig& config) {
  const std::string& type = config.model_type;
  if (type != "llama" && type != "mistral" && type != "qwen2" && type != "qwen3") {
    throw_user(
        "{}: model_type '{}' is not supported; supported: llama (SmolLM2 too), mistral, qwen2, "
        "qwen3",
        f.file(), printable(type));
  }
  const std::string activation = f.string("hidden_act", "silu");
  if (activation != "silu") {
    throw_user("{}: hidden_act '{}' is not supported; supported: silu", f.file(),
               printable(activation));
  }
  const bool attention_bias = f.boolean("attention_bias", false);
  config.qkv_bias = type == "qwen2" || attention_bias;
  config.out_bias = type != "qwen2" && attention_bias;
  config.mlp_bias = f.boolean("mlp_bias", false);
  config.qk_norm = type == "qwen3";
}

}  // namespace

ModelConfig parse_model_config(std::string_view text, std::string_view file) {
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object()) throw_user("{}: not a JSON object", file);
  const Fields f(json, file);
  ModelConfig c;
  c.model_type = f.string("model_type");
  parse_architecture(f, c);
  c.hidden_size = f.size("hidden_size");
  c.intermediate_size = f.size("intermediate_size");
  c.num_layers = f.size("num_hidden_layers");
  if (c.num_layers > 4096)
    throw_user("{}: num_hidden_layers = {}: allowed 1 to 4096", file, c.num_layers);
  c.num_heads = f.size("num_attention_heads");
  c.num_kv_heads = f.size("num_key_value_heads", c.num_heads);
  c.vocab_size = f.size("vocab_size");
  c.max_positions = f.size("max_position_embeddings", 2048);
  c.rms_eps = f.number("rms_norm_eps", 1e-6);
  c.tied_head = f.boolean("tie_word_embeddings", false);
  c.init_std = f.number("initializer_range", 0.02);
  if (!f.has("head_dim") && c.hidden_size % c.num_heads != 0) {
    throw_user("{}: hidden_size {} is not a multiple of num_attention_heads {}", file,
               c.hidden_size, c.num_heads);
  }
  c.head_dim = f.size("head_dim", c.hidden_size / c.num_heads);
  if (c.num_heads % c.num_kv_heads != 0) {
    throw_user("{}: num_attention_heads {} is not a multiple of num_key_value_heads {}", file,
               c.num_heads, c.num_kv_heads);
  }
  if (c.head_dim % 2 != 0)
    throw_user("{}: head_dim = {}: must be even for rotary embedding", file, c.head_dim);
  parse_rope(f, c);
  parse_windows(f, c);
  parse_special_ids(f, c);
  return c;
}

ModelConfig load_model_config(const std::filesystem::path& file) {
  return parse_model_config(read_text_file(file, kConfigLimitBytes), file.string());
}

std::int64_t ModelConfig::num_parameters() const {
  const std::int64_t q = num_heads * head_dim, kv = num_kv_heads * head_dim;
  std::int64_t layer =
      hidden_size * (2 * q + 2 * kv) + 3 * hidden_size * intermediate_size + 2 * hidden_size;
  if (qkv_bias) layer += q + 2 * kv;
  if (out_bias) layer += hidden_size;
  if (mlp_bias) layer += 2 * intermediate_size + hidden_size;
  if (qk_norm) layer += 2 * head_dim;
  return num_layers * layer + vocab_size * hidden_size * (tied_head ? 1 : 2) + hidden_size;
}

double ModelConfig::train_flops_per_token(std::int64_t seq_len) const {
  const std::int64_t q = num_heads * head_dim, kv = num_kv_heads * head_dim;
  const std::int64_t matrices =
      num_layers * (hidden_size * (2 * q + 2 * kv) + 3 * hidden_size * intermediate_size) +
      vocab_size * hidden_size;
  return 6.0 * static_cast<double>(matrices) + 6.0 * static_cast<double>(num_layers * q * seq_len);
}

std::string model_config_json(const ModelConfig& c, std::string_view torch_dtype) {
  const std::string name = c.model_type == "llama"     ? "LlamaForCausalLM"
                           : c.model_type == "mistral" ? "MistralForCausalLM"
                           : c.model_type == "qwen2"   ? "Qwen2ForCausalLM"
                                                       : "Qwen3ForCausalLM";
  nlohmann::ordered_json json;
  json["architectures"] = {name};
  json["model_type"] = c.model_type;
  json["hidden_size"] = c.hidden_size;
  json["intermediate_size"] = c.intermediate_size;
  json["num_hidden_layers"] = c.num_layers;
  json["num_attention_heads"] = c.num_heads;
  json["num_key_value_heads"] = c.num_kv_heads;
  json["head_dim"] = c.head_dim;
  json["vocab_size"] = c.vocab_size;
  json["max_position_embeddings"] = c.max_positions;
  json["rms_norm_eps"] = c.rms_eps;
  json["rope_theta"] = c.rope_theta;
  json["hidden_act"] = "silu";
  json["initializer_range"] = c.init_std;
  json["tie_word_embeddings"] = c.tied_head;
  if (c.model_type == "llama" || c.model_type == "qwen3") json["attention_bias"] = c.qkv_bias;
  if (c.model_type == "llama") json["mlp_bias"] = c.mlp_bias;
  const RopeScaling& s = c.rope_scaling;
  if (s.type != RopeScaling::Type::kDefault) {
    nlohmann::ordered_json rope;
    for (const auto& [label, type] : kRopeTypes) {
      if (type == s.type) rope["rope_type"] = label;
    }
    rope["factor"] = s.factor;
    if (s.original_max_positions > 0)
      rope["original_max_position_embeddings"] = s.original_max_positions;
    if (s.type == RopeScaling::Type::kLlama3) {
      rope["low_freq_factor"] = s.low_freq_factor;
      rope["high_freq_factor"] = s.high_freq_factor;
    }
    if (s.type == RopeScaling::Type::kYarn) {
      rope["beta_fast"] = s.beta_fast;
      rope["beta_slow"] = s.beta_slow;
      if (s.attention_factor) rope["attention_factor"] = *s.attention_factor;
      if (s.mscale) rope["mscale"] = *s.mscale;
      if (s.mscale_all_dim) rope["mscale_all_dim"] = *s.mscale_all_dim;
    }
    json["rope_scaling"] = rope;
  }
  std::int64_t window = 0, first = -1;
  for (std::size_t l = 0; l < c.windows.size(); ++l) {
    if (c.windows[l] > 0 && first < 0) first = static_cast<std::int64_t>(l);
    window = std::max(window, c.windows[l]);
  }
  if (window > 0) {
    json["sliding_window"] = window;
    if (c.model_type != "mistral") {
      json["use_sliding_window"] = true;
      json["max_window_layers"] = first;
    }
  } else if (c.model_type == "mistral") {
    json["sliding_window"] = nullptr;
  }
  if (c.bos_id) json["bos_token_id"] = *c.bos_id;
  if (c.eos_ids.size() == 1) json["eos_token_id"] = c.eos_ids[0];
  if (c.eos_ids.size() > 1) json["eos_token_id"] = c.eos_ids;
  json["torch_dtype"] = torch_dtype;
  return json.dump(2) + "\n";
}

namespace {

struct Named {
  std::string_view name;
  std::int64_t hidden, ffn, heads, kv_heads, layers, vocab;
  bool tied;
};
constexpr std::array kNamed{Named{"20m", 256, 688, 4, 4, 4, 32000, false},
                            Named{"60m", 512, 1376, 8, 8, 8, 32000, false},
                            Named{"130m", 768, 2048, 12, 12, 12, 32000, false},
                            Named{"350m", 1024, 2736, 16, 16, 24, 32000, false},
                            Named{"1b", 2048, 5461, 32, 32, 24, 32000, false},
                            Named{"7b", 4096, 11008, 32, 32, 32, 32000, false},
                            Named{"qwen2.5-0.5b", 896, 4864, 14, 2, 24, 151936, true},
                            Named{"qwen2.5-1.5b", 1536, 8960, 12, 2, 28, 151936, true},
                            Named{"qwen2.5-3b", 2048, 11008, 16, 2, 36, 151936, true},
                            Named{"qwen2.5-7b", 3584, 18944, 28, 4, 28, 152064, false},
                            Named{"qwen2.5-14b", 5120, 13824, 40, 8, 48, 152064, false}};

}  // namespace

std::optional<ModelConfig> named_model_config(std::string_view size) {
  for (const Named& n : kNamed) {
    if (n.name != size) continue;
    ModelConfig c;
    c.hidden_size = n.hidden;
    c.intermediate_size = n.ffn;
    c.num_layers = n.layers;
    c.num_heads = n.heads;
    c.num_kv_heads = n.kv_heads;
    c.head_dim = n.hidden / n.heads;
    c.vocab_size = n.vocab;
    c.max_positions = 2048;
    c.windows.assign(static_cast<std::size_t>(n.layers), 0);
    if (n.name.starts_with("qwen")) {
      c.model_type = "qwen2";
      c.rope_theta = 1e6;
      c.qkv_bias = true;
      c.tied_head = n.tied;
    }
    return c;
  }
  return std::nullopt;
}

std::string model_config_names() {
  std::vector<std::string> names;
  for (const Named& n : kNamed) names.emplace_back(n.name);
  return join(names, ", ");
}

}  // namespace thimble
