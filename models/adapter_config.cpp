#include "models/adapter_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/regex.h"
#include "core/base/text.h"
#include "core/io/file.h"
#include "core/io/strict_json.h"
#include "models/config_fields.h"

namespace thimble {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kAdapterConfigLimit = 16 * kMiB;

constexpr std::array kHonouredOfAdapters{"peft_type",
                                         "r",
                                         "lora_alpha",
                                         "use_rslora",
                                         "use_dora",
                                         "target_modules",
                                         "bias",
                                         "init_lora_weights",
                                         "modules_to_save",
                                         "layers_to_transform",
                                         "layers_pattern",
                                         "rank_pattern",
                                         "alpha_pattern",
                                         "feedforward_modules",
                                         "base_model_name_or_path",
                                         "save_projection"};

// Without effect on what an adapter computes: where it comes from, how it was or will be trained,
// and settings of starts that are over.
constexpr std::array kIrrelevantToAdapters{
    "auto_mapping",      "corda_config",     "ensure_weight_tying", "eva_config",
    "inference_mode",    "init_ia3_weights", "loftq_config",        "lora_dropout",
    "lora_ga_config",    "megatron_config",  "megatron_core",       "peft_version",
    "qalora_group_size", "revision",         "runtime_config",      "task_type",
    "d_initial",         "init_weights",     "projection_prng_key", "vera_dropout"};

template <typename List>
bool has_key(const List& list, const std::string& key) {
  return std::find(list.begin(), list.end(), key) != list.end();
}

// Null, false, zero, or nothing in it: as if the key were not there.
bool says_nothing(const Json& value) {
  return value.is_null() || value == Json(false) || value == Json(0) || value == Json("") ||
         ((value.is_array() || value.is_object()) && value.empty());
}

void check_keys(const ConfigFields& fields) {
  for (const auto& [key, value] : fields.all().items()) {
    if (has_key(kHonouredOfAdapters, key) || has_key(kIrrelevantToAdapters, key) ||
        says_nothing(value))
      continue;
    const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    throw_user("{}: {} = {}: this option may change what the adapter computes, and is not honoured",
               fields.file(), printable(key), printable(text, 60));
  }
  if (fields.has_value("bias") && fields.raw("bias") != Json("none"))
    fields.wrong("bias", "\"none\"");
  if (fields.has_value("layers_pattern") && !says_nothing(fields.raw("layers_pattern")) &&
      fields.raw("layers_pattern") != Json("layers") &&
      fields.raw("layers_pattern") != Json::array({"layers"}))
    fields.wrong("layers_pattern", "null or \"layers\"");
  if (!fields.has_value("init_lora_weights")) return;
  const Json& init = fields.raw("init_lora_weights");
  if (init.is_boolean() || init == Json("gaussian") || init == Json("eva") ||
      init == Json("orthogonal"))
    return;
  fields.wrong(
      "init_lora_weights",
      "true, false, \"gaussian\", \"eva\", \"orthogonal\": with others the adapter belongs "
      "to a changed base model; PEFT's save_pretrained converts it "
      "(path_initial_model_for_weight_conversion)");
}

std::vector<std::string> texts(const ConfigFields& fields, const char* key) {
  std::vector<std::string> list;
  if (!fields.has_value(key)) return list;
  const Json& value = fields.raw(key);
  if (!value.is_array()) fields.wrong(key, "a list of names");
  for (const Json& name : value) {
    if (!name.is_string()) fields.wrong(key, "a list of names");
    list.push_back(name.get<std::string>());
  }
  return list;
}

std::vector<std::int64_t> layer_list(const ConfigFields& fields, const char* key) {
  std::vector<std::int64_t> list;
  if (!fields.has_value(key)) return list;
  const Json& value = fields.raw(key);
  const auto add = [&](const Json& number) {
    if (!number.is_number_unsigned() || number.get<std::uint64_t>() > kConfigSizeLimit)
      fields.wrong(key, "layers from 0, in a list");
    list.push_back(number.get<std::int64_t>());
  };
  if (!value.is_array()) {
    add(value);
  } else {
    std::for_each(value.begin(), value.end(), add);
  }
  return list;
}

using OrderedJson = nlohmann::ordered_json;

Regex module_pattern(const std::string& pattern, std::string where) {
  return {"(.*\\.)?(" + pattern + ")", Regex::Kind::kBytes, std::move(where)};
}

// A number of a pattern: of ranks a whole one, of alphas any.
std::int64_t pattern_number(const Json& value, std::int64_t otherwise) {
  const bool whole = value.is_number_unsigned() &&
                     value.get<std::uint64_t>() <= static_cast<std::uint64_t>(kConfigSizeLimit);
  return whole ? value.get<std::int64_t>() : otherwise;
}
double pattern_number(const Json& value, double otherwise) {
  return value.is_number() && value.get<double>() <= kPositive.most ? value.get<double>()
                                                                    : otherwise;
}

// `ordered`: the whole file with its keys in their order, which decides between two that match.
template <typename Value>
void read_pattern(const ConfigFields& fields, const OrderedJson& ordered, const char* key,
                  std::vector<std::pair<std::string, Value>>& patterns) {
  constexpr std::size_t kMostPatterns = 4096;
  if (!fields.has_value(key)) return;
  if (!fields.raw(key).is_object() || fields.raw(key).size() > kMostPatterns)
    fields.wrong(key, fmt::format("an object of at most {} modules and numbers", kMostPatterns));
  for (const auto& [name, unordered] : ordered.at(key).items()) {
    const Value value = pattern_number(fields.raw(key).at(name), Value{0});
    if (!(value > 0)) {
      fields.wrong(key, std::is_integral_v<Value>
                            ? fmt::format("whole numbers from 1 to {}", kConfigSizeLimit)
                            : "numbers above 0");
    }
    static_cast<void>(module_pattern(name, fmt::format("{}: {}", fields.file(), key)));
    patterns.emplace_back(name, value);
  }
}

AdapterKind kind_of(const ConfigFields& fields) {
  const std::string type = fields.string("peft_type");
  if (type == "LORA") return AdapterKind::kLora;
  if (type == "VERA") return AdapterKind::kVera;
  if (type == "IA3") return AdapterKind::kIa3;
  fields.wrong("peft_type", "\"LORA\", \"VERA\", \"IA3\"");
}

// The value of the first pattern that matches, as PEFT looks it up.
template <typename Value>
std::optional<Value> by_pattern(const std::vector<std::pair<std::string, Value>>& patterns,
                                std::string_view module) {
  for (const auto& [pattern, value] : patterns) {
    if (module_pattern(pattern, "adapter pattern").matches_whole(module)) return value;
  }
  return std::nullopt;
}

// What the families that are known have for "all-linear".
constexpr std::array kLinearNames{"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                  "gate_proj", "up_proj", "down_proj"};

}  // namespace

bool AdapterConfig::targets(std::string_view module) const {
  return has_key(target_modules, std::string(kAllLinear)) || names_module(target_modules, module);
}

AdapterShape adapter_shape(const AdapterConfig& config, std::string_view module) {
  const std::int64_t rank = by_pattern(config.rank_pattern, module).value_or(config.rank);
  const double alpha = by_pattern(config.alpha_pattern, module).value_or(config.alpha);
  const auto r = static_cast<double>(rank);
  return {rank, alpha / (config.rank_stabilised ? std::sqrt(r) : r)};
}

bool names_module(const std::vector<std::string>& names, std::string_view module) {
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return module == name || (module.size() > name.size() && module.ends_with(name) &&
                              module[module.size() - name.size() - 1] == '.');
  });
}

bool is_adapter_directory(const std::filesystem::path& directory) {
  std::error_code error;
  return std::filesystem::exists(directory / kAdapterConfigName, error);
}

AdapterFileConfig parse_adapter_config(std::string_view text, std::string_view file) {
  const Json json = parse_strict_json(text, file);
  if (!json.is_object()) throw_user("{}: not a JSON object", file);
  const ConfigFields fields(json, file);
  AdapterFileConfig config;
  AdapterConfig& adapter = config.adapter;
  adapter.kind = kind_of(fields);
  check_keys(fields);
  if (adapter.kind == AdapterKind::kVera) {
    adapter.rank = fields.size("r", 256);
    if (!fields.boolean("save_projection", true))
      fields.wrong("save_projection",
                   "true: the matrices that the layers share have to be in the file");
  }
  if (adapter.kind == AdapterKind::kLora) {
    adapter.rank = fields.size("r", 8);
    adapter.alpha = fields.number("lora_alpha", kPositive, 8.0);
    adapter.rank_stabilised = fields.boolean("use_rslora", false);
    adapter.dora = fields.boolean("use_dora", false);
  }
  const bool lists = fields.has_value("target_modules") && fields.raw("target_modules").is_array();
  const bool all = fields.has_value("target_modules") &&
                   fields.raw("target_modules") == Json(std::string(kAllLinear));
  if (!all) adapter.target_modules.clear();
  if (lists) adapter.target_modules = texts(fields, "target_modules");
  adapter.feedforward_modules = texts(fields, "feedforward_modules");
  adapter.modules_to_save = texts(fields, "modules_to_save");
  adapter.layers = layer_list(fields, "layers_to_transform");
  const OrderedJson ordered = OrderedJson::parse(text);
  read_pattern(fields, ordered, "rank_pattern", adapter.rank_pattern);
  read_pattern(fields, ordered, "alpha_pattern", adapter.alpha_pattern);
  if (fields.has_value("base_model_name_or_path"))
    config.base_model = fields.string("base_model_name_or_path");
  return config;
}

AdapterFileConfig load_adapter_config(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / kAdapterConfigName;
  return parse_adapter_config(read_text_file(file, kAdapterConfigLimit), file.string());
}

std::string adapter_config_json(const AdapterConfig& config, const std::string& base_model) {
  OrderedJson json;
  const auto list = [](const std::vector<std::string>& names) {
    return names.empty() ? OrderedJson() : OrderedJson(names);
  };
  const bool lora = config.kind == AdapterKind::kLora, vera = config.kind == AdapterKind::kVera;
  json["peft_type"] = lora ? "LORA" : vera ? "VERA" : "IA3";
  json["task_type"] = "CAUSAL_LM";
  json["base_model_name_or_path"] = base_model.empty() ? OrderedJson() : OrderedJson(base_model);
  json["inference_mode"] = true;
  json["fan_in_fan_out"] = false;
  json["modules_to_save"] = list(config.modules_to_save);
  json["target_modules"] = config.target_modules;
  if (has_key(config.target_modules, std::string(kAllLinear)))
    json["target_modules"] = std::vector<std::string>(kLinearNames.begin(), kLinearNames.end());
  if (config.kind == AdapterKind::kIa3) {
    json["feedforward_modules"] = config.feedforward_modules;
    return json.dump(2) + "\n";
  }
  json["layers_to_transform"] = config.layers.empty() ? OrderedJson() : OrderedJson(config.layers);
  json["layers_pattern"] = nullptr;
  json["bias"] = "none";
  json["r"] = config.rank;
  if (vera) {
    json["save_projection"] = true;
    json["vera_dropout"] = 0.0;
    return json.dump(2) + "\n";
  }
  json["lora_alpha"] = config.alpha;
  if (config.alpha == std::floor(config.alpha) && config.alpha < 1e15)
    json["lora_alpha"] = static_cast<std::int64_t>(config.alpha);
  json["lora_dropout"] = 0.0;
  json["init_lora_weights"] = true;
  json["use_rslora"] = config.rank_stabilised;
  json["use_dora"] = config.dora;
  const auto object = [](const auto& patterns) {
    OrderedJson values = OrderedJson::object();
    for (const auto& [pattern, value] : patterns) values[pattern] = value;
    return values;
  };
  json["rank_pattern"] = object(config.rank_pattern);
  json["alpha_pattern"] = object(config.alpha_pattern);
  return json.dump(2) + "\n";
}

}  // namespace thimble
