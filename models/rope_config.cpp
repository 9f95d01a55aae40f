#include "models/rope_config.h"

#include <array>

#include "core/base/error.h"
#include "core/base/text.h"
#include "models/config_keys.h"

namespace thimble {
namespace {

using Json = nlohmann::json;
using Type = RopeScaling::Type;

constexpr std::array<std::pair<std::string_view, Type>, 5> kRopeTypes{{
    {"default", Type::kDefault},
    {"linear", Type::kLinear},
    {"dynamic", Type::kDynamic},
    {"yarn", Type::kYarn},
    {"llama3", Type::kLlama3},
}};

// The key whose object holds the parameters; null if none does. An empty object counts as none.
const char* rope_key(const ConfigFields& top, const NoteFn& note) {
  const char* chosen = nullptr;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!top.has_value(key)) continue;
    if (!top.raw(key).is_object()) top.wrong(key, "an object");
    if (top.raw(key).empty()) continue;
    if (chosen != nullptr && note && top.raw(key) != top.raw(chosen)) {
      note(
          fmt::format("{}: {} is not used beside {}, as in transformers", top.file(), key, chosen));
    }
    if (chosen == nullptr) chosen = key;
  }
  return chosen;
}

Type parse_type(const ConfigFields& rope, const char* key) {
  const std::string type = rope.string("rope_type", rope.string("type", "default"));
  for (const auto& [name, value] : kRopeTypes) {
    if (type == name) return value;
  }
  throw_user(
      "{}: {}.rope_type '{}' is not supported; supported: default, linear, dynamic, yarn, llama3",
      rope.file(), key, printable(type));
}

void parse_yarn(const ConfigFields& rope, RopeScaling& s) {
  // Zero stands for the default of these, as null does.
  const auto not_zero = [](std::optional<double> value) {
    return value && *value > 0 ? value : std::nullopt;
  };
  s.beta_fast = not_zero(rope.maybe_number("beta_fast", kNotNegative)).value_or(32.0);
  s.beta_slow = not_zero(rope.maybe_number("beta_slow", kNotNegative)).value_or(1.0);
  s.attention_factor = rope.maybe_number("attention_factor", kPositive);
  s.mscale = not_zero(rope.maybe_number("mscale", kNotNegative));
  s.mscale_all_dim = not_zero(rope.maybe_number("mscale_all_dim", kNotNegative));
  s.truncate = rope.boolean("truncate", true);
}

void parse_scaling(const ConfigFields& top, const ConfigFields& rope, ModelConfig& config) {
  RopeScaling& s = config.rope_scaling;
  constexpr NumberRange kFactor{1, kPositive.most};
  if (s.type == Type::kLlama3 || s.type == Type::kYarn) {
    // At top level it counts more than inside.
    s.original_max_positions =
        top.has("original_max_position_embeddings")
            ? top.size("original_max_position_embeddings")
            : rope.size("original_max_position_embeddings", config.max_positions);
  }
  if (s.type == Type::kYarn && rope.has("factor") && !rope.has_value("factor")) {
    s.factor =
        static_cast<double>(config.max_positions) / static_cast<double>(s.original_max_positions);
  } else {
    s.factor = rope.number("factor", kFactor);
  }
  if (s.type == Type::kYarn) parse_yarn(rope, s);
  if (s.type == Type::kLlama3) {
    s.low_freq_factor = rope.number("low_freq_factor", kPositive, 1.0);
    s.high_freq_factor = rope.number("high_freq_factor", kPositive, 4.0);
    if (!(s.high_freq_factor > s.low_freq_factor)) {
      rope.wrong("high_freq_factor",
                 fmt::format("more than low_freq_factor, {:g}", s.low_freq_factor));
    }
  }
  if (s.type == Type::kYarn && !(config.rope_theta > 1)) {
    throw_user("{}: rope_theta = {:g}: yarn needs more than 1", top.file(), config.rope_theta);
  }
  if (s.type == Type::kDynamic && config.head_dim < 4) {
    throw_user("{}: head_dim = {}: dynamic rotary scaling needs 4 or more", top.file(),
               config.head_dim);
  }
}

}  // namespace

void parse_rope(const ConfigFields& top, ModelConfig& config, const NoteFn& note) {
  config.rope_theta = top.number("rope_theta", kPositive, 10000.0);
  const char* key = rope_key(top, note);
  if (key == nullptr) return;
  const ConfigFields rope(top.raw(key), top.file(), std::string(key) + ".");
  check_rope_keys(rope);
  config.rope_theta = rope.number("rope_theta", kPositive, config.rope_theta);
  config.rope_scaling.type = parse_type(rope, key);
  if (config.rope_scaling.type != Type::kDefault) parse_scaling(top, rope, config);
}

nlohmann::ordered_json rope_scaling_json(const ModelConfig& config) {
  const RopeScaling& s = config.rope_scaling;
  if (s.type == Type::kDefault) return nullptr;
  nlohmann::ordered_json rope;
  for (const auto& [label, type] : kRopeTypes) {
    if (type == s.type) rope["rope_type"] = label;
  }
  rope["factor"] = s.factor;
  if (s.type == Type::kLlama3 || s.type == Type::kYarn) {
    rope["original_max_position_embeddings"] =
        s.original_max_positions > 0 ? s.original_max_positions : config.max_positions;
  }
  if (s.type == Type::kLlama3) {
    rope["low_freq_factor"] = s.low_freq_factor;
    rope["high_freq_factor"] = s.high_freq_factor;
  }
  if (s.type == Type::kYarn) {
    rope["beta_fast"] = s.beta_fast;
    rope["beta_slow"] = s.beta_slow;
    if (s.attention_factor) rope["attention_factor"] = *s.attention_factor;
    if (s.mscale) rope["mscale"] = *s.mscale;
    if (s.mscale_all_dim) rope["mscale_all_dim"] = *s.mscale_all_dim;
    if (!s.truncate) rope["truncate"] = false;
  }
  return rope;
}

std::int64_t trained_positions(const ModelConfig& config) {
  const RopeScaling& s = config.rope_scaling;
  const bool own = s.type == Type::kDynamic && s.original_max_positions > 0;
  return own ? s.original_max_positions : config.max_positions;
}

}  // namespace thimble
