#include "models/rope_config.h"

#include <array>

#include "core/base/error.h"
#include "core/base/text.h"
#include "models/config_keys.h"

namespace thimble {
namespace {

using Json = nlohmann::json;
using Type = RopeScaling::Type;

constexpr std::array<std::pair<std::string_view, Type>, 6> kRopeTypes{{
    {"default", Type::kDefault},
    {"linear", Type::kLinear},
    {"dynamic", Type::kDynamic},
    {"yarn", Type::kYarn},
    {"llama3", Type::kLlama3},
    {"longrope", Type::kLongrope},
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

Type parse_type(const ConfigFields& rope, const char* key, const Family& family) {
  const std::string type = rope.string("rope_type", rope.string("type", "default"));
  if (family.reads_partial_rotary) {  // which has one scaling, under its names of today and before
    if (type == "longrope" || type == "su" || type == "yarn") return Type::kLongrope;
    if (type == "default") return Type::kDefault;
    throw_user("{}: {}.rope_type '{}' is not supported in {}; supported: default, longrope",
               rope.file(), key, printable(type), family.model_type);
  }
  for (const auto& [name, value] : kRopeTypes) {
    if (type == name) return value;
  }
  throw_user(
      "{}: {}.rope_type '{}' is not supported; supported: default, linear, dynamic, yarn, llama3, "
      "longrope",
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

std::vector<double> parse_factors(const ConfigFields& rope, const char* key, std::int64_t count) {
  const std::string allowed = fmt::format("a list of {} numbers above 0", count);
  if (!rope.has_value(key))
    throw_user("{}: {}{} is missing: longrope needs {}", rope.file(), rope.prefix(), key, allowed);
  const Json& list = rope.raw(key);
  if (!list.is_array() || static_cast<std::int64_t>(list.size()) != count) rope.wrong(key, allowed);
  std::vector<double> factors;
  for (const Json& factor : list) {
    const double value = factor.is_number() ? factor.get<double>() : 0.0;
    if (!(value >= kPositive.least && value <= kPositive.most)) rope.wrong(key, allowed);
    factors.push_back(value);
  }
  return factors;
}

void parse_longrope(const ConfigFields& rope, std::int64_t rotated, RopeScaling& s) {
  s.short_factor = parse_factors(rope, "short_factor", rotated / 2);
  s.long_factor = parse_factors(rope, "long_factor", rotated / 2);
  s.attention_factor = rope.maybe_number("attention_factor", kPositive);
}

void parse_scaling(const ConfigFields& top, const ConfigFields& rope, ModelConfig& config) {
  RopeScaling& s = config.rope_scaling;
  constexpr NumberRange kFactor{1, kPositive.most};
  const bool longrope = s.type == Type::kLongrope;
  if (s.type == Type::kLlama3 || s.type == Type::kYarn || longrope) {
    // At top level it counts more than inside.
    s.original_max_positions =
        top.has("original_max_position_embeddings")
            ? top.size("original_max_position_embeddings")
            : rope.size("original_max_position_embeddings", config.max_positions);
  }
  const bool null_factor = rope.has("factor") && !rope.has_value("factor");
  if ((s.type == Type::kYarn && null_factor) || (longrope && !rope.has_value("factor"))) {
    s.factor =
        static_cast<double>(config.max_positions) / static_cast<double>(s.original_max_positions);
  } else {
    s.factor = rope.number("factor", kFactor);
  }
  if (longrope) parse_longrope(rope, config.rotated(), s);
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

void parse_object(const ConfigFields& top, const char* key, const Family& family,
                  ModelConfig& config) {
  const ConfigFields rope(top.raw(key), top.file(), std::string(key) + ".");
  check_rope_keys(rope, family.own_keys);
  config.rope_theta = rope.number("rope_theta", kPositive, config.rope_theta);
  config.rope_scaling.type = parse_type(rope, key, family);
  if (config.rope_scaling.type != Type::kDefault) parse_scaling(top, rope, config);
}

// Layers with a window and those without have a theta each; only the latter may be scaled.
void parse_two_ropes(const ConfigFields& top, const Family& family, ModelConfig& config) {
  config.local_rope_theta = top.number("rope_local_base_freq", kPositive, 10000.0);
  if (top.has_value("rope_parameters")) {
    if (!top.raw("rope_parameters").is_object()) top.wrong("rope_parameters", "an object");
    const ConfigFields both(top.raw("rope_parameters"), top.file(), "rope_parameters.");
    for (const auto& [kind, value] : both.all().items()) {
      const bool local = kind == "sliding_attention";
      if (!local && kind != "full_attention")
        both.wrong(kind, "only full_attention and sliding_attention");
      if (value.is_null()) continue;
      if (!value.is_object()) both.wrong(kind, "an object");
      if (!local) {
        parse_object(both, "full_attention", family, config);
        continue;
      }
      const ConfigFields rope(value, top.file(), "rope_parameters.sliding_attention.");
      config.local_rope_theta = rope.number("rope_theta", kPositive, config.local_rope_theta);
      if (parse_type(rope, "rope_parameters.sliding_attention", family) != Type::kDefault)
        rope.wrong(rope.has("rope_type") ? "rope_type" : "type", "default");
    }
  }
  if (!top.has_value("rope_scaling")) return;
  if (!top.raw("rope_scaling").is_object()) top.wrong("rope_scaling", "an object");
  parse_object(top, "rope_scaling", family, config);
}

}  // namespace

void parse_rope(const ConfigFields& top, const Family& family, ModelConfig& config,
                const NoteFn& note) {
  config.rope_theta = top.number("rope_theta", kPositive, family.rope_theta);
  if (family.local_rope) return parse_two_ropes(top, family, config);
  if (const char* key = rope_key(top, note)) parse_object(top, key, family, config);
}

double rotary_part(const ConfigFields& top) {
  constexpr NumberRange kPart{0, 1};
  if (const char* key = rope_key(top, {})) {
    const ConfigFields rope(top.raw(key), top.file(), std::string(key) + ".");
    if (rope.has_value("partial_rotary_factor")) return rope.number("partial_rotary_factor", kPart);
  }
  return top.maybe_number("partial_rotary_factor", kPart).value_or(1.0);
}

nlohmann::ordered_json rope_scaling_json(const ModelConfig& config) {
  const RopeScaling& s = config.rope_scaling;
  if (s.type == Type::kDefault) return nullptr;
  nlohmann::ordered_json rope;
  for (const auto& [label, type] : kRopeTypes) {
    if (type == s.type) rope["rope_type"] = label;
  }
  rope["factor"] = s.factor;
  if (s.type == Type::kLlama3 || s.type == Type::kYarn || s.type == Type::kLongrope) {
    rope["original_max_position_embeddings"] =
        s.original_max_positions > 0 ? s.original_max_positions : config.max_positions;
  }
  if (s.type == Type::kLlama3) {
    rope["low_freq_factor"] = s.low_freq_factor;
    rope["high_freq_factor"] = s.high_freq_factor;
  }
  if (s.type == Type::kLongrope) {
    rope["short_factor"] = s.short_factor;
    rope["long_factor"] = s.long_factor;
    if (s.attention_factor) rope["attention_factor"] = *s.attention_factor;
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
