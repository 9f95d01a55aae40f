#include "compress/kvc_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/file.h"

namespace thimble {
namespace {

using KvcJson = nlohmann::ordered_json;

constexpr std::int64_t kKvcTextLimit = kMiB;
constexpr std::int64_t kMostOfField = std::int64_t{1} << 40;
constexpr std::array<std::string_view, 2> kActivationNames{"silu", "gelu_pytorch_tanh"};
constexpr std::array<std::string_view, 2> kSmoothnessNames{"layers", "mean"};
constexpr std::array<std::string_view, 2> kStageNames{"post", "pre"};
constexpr std::array<std::string_view, 2> kPolicyNames{"original", "slot"};

template <typename Enum, std::size_t n>
std::string_view name_of(const std::array<std::string_view, n>& names, Enum value) {
  return names.at(static_cast<std::size_t>(value));
}

// One object of the file: its fields by name, with errors that say where they are.
class KvcObject {
 public:
  KvcObject(const KvcJson& json, std::string file, std::string path)
      : json_(json), file_(std::move(file)), path_(std::move(path)) {
    if (!json_.is_object()) fail("", "allowed an object");
  }

  KvcObject object(const char* name) const { return {field(name), file_, place(name)}; }
  std::string text(const char* name) const {
    const KvcJson& value = field(name);
    if (!value.is_string()) fail(name, "allowed a text");
    return value.get<std::string>();
  }
  std::int64_t integer(const char* name, std::int64_t least) const {
    const KvcJson& value = field(name);
    const bool fits = value.is_number_integer() && value.get<std::int64_t>() >= least &&
                      value.get<std::int64_t>() <= kMostOfField;
    if (!fits) fail(name, fmt::format("allowed an integer from {}", least));
    return value.get<std::int64_t>();
  }
  double number(const char* name, double above) const {
    const KvcJson& value = field(name);
    const bool fits =
        value.is_number() && value.get<double>() > above && std::isfinite(value.get<double>());
    if (!fits) fail(name, fmt::format("allowed a number above {}", above));
    return value.get<double>();
  }
  template <typename Enum, std::size_t n>
  Enum choice(const char* name, const std::array<std::string_view, n>& names) const {
    const std::string value = text(name);
    const auto found = std::find(names.begin(), names.end(), value);
    if (found == names.end()) fail(name, fmt::format("allowed {}", fmt::join(names, ", ")));
    return static_cast<Enum>(found - names.begin());
  }
  const KvcJson& field(const char* name) const {
    const auto found = json_.find(name);
    if (found == json_.end()) throw_user("{}: {} is missing", file_, place(name));
    return *found;
  }
  [[noreturn]] void fail(const char* name, const std::string& allowed) const {
    const auto found = json_.is_object() ? json_.find(name) : json_.end();
    const std::string value = found == json_.end() ? json_.dump() : found->dump();
    throw_user("{}: {} = {}; {}", file_, place(name), printable(value, 60), allowed);
  }
  std::string place(const std::string& name) const {
    if (path_.empty()) return name;
    return name.empty() ? path_ : path_ + "." + name;
  }

 private:
  const KvcJson& json_;
  std::string file_, path_;
};

KvcJson base_json(const KvcBase& base) {
  return {{"arch", base.arch},
          {"hidden_size", base.hidden_size},
          {"n_layers", base.layers},
          {"n_heads", base.heads},
          {"n_kv_heads", base.kv_heads},
          {"head_dim", base.head_dim},
          {"vocab", base.vocab},
          {"rope_theta", base.rope_theta},
          {"rope_layout", "half"},
          {"max_pos", base.max_positions},
          {"weights_sha256", base.weights_sha256}};
}

KvcBase read_base(const KvcObject& json) {
  KvcBase base{.arch = json.text("arch"),
               .hidden_size = json.integer("hidden_size", 1),
               .layers = json.integer("n_layers", 1),
               .heads = json.integer("n_heads", 1),
               .kv_heads = json.integer("n_kv_heads", 1),
               .head_dim = json.integer("head_dim", 1),
               .vocab = json.integer("vocab", 1),
               .rope_theta = json.number("rope_theta", 0),
               .max_positions = json.integer("max_pos", 1),
               .weights_sha256 = json.text("weights_sha256")};
  if (json.text("rope_layout") != "half") json.fail("rope_layout", "allowed half");
  const std::string& hash = base.weights_sha256;
  if (hash.size() != 64 || hash.find_first_not_of("0123456789abcdef") != std::string::npos)
    json.fail("weights_sha256", "allowed 64 hexadecimal digits");
  return base;
}

// The one number that all layers and heads have.
std::int64_t read_rank(const KvcObject& ranks, const char* name, const KvcBase& base) {
  const KvcJson& layers = ranks.field(name);
  const KvcJson* first = nullptr;
  bool fits = layers.is_array() && static_cast<std::int64_t>(layers.size()) == base.layers;
  for (std::size_t l = 0; fits && l < layers.size(); ++l) {
    fits = layers[l].is_array() && static_cast<std::int64_t>(layers[l].size()) == base.kv_heads;
    for (std::size_t h = 0; fits && h < layers[l].size(); ++h) {
      if (first == nullptr) first = &layers[l][h];
      fits = layers[l][h].is_number_integer() && layers[l][h] == *first;
    }
  }
  const std::int64_t rank = fits ? first->get<std::int64_t>() : 0;
  if (rank < 1 || rank > base.head_dim) {
    ranks.fail(name, fmt::format("allowed one number from 1 to {} for each of {} layers' {} heads, "
                                 "the same for all",
                                 base.head_dim, base.layers, base.kv_heads));
  }
  return rank;
}

void read_stage(const KvcObject& stage, const KvcObject& file, KvcConfig& config) {
  CompressorConfig& c = config.compressor;
  c.kind = parse_compressor_kind(stage.text("type"), stage.place("type"));
  if (c.kind == CompressorKind::kMatryoshka) {
    if (stage.text("axis") != "channel") stage.fail("axis", "allowed channel");
    const KvcObject ranks = file.object("ranks");
    c.ranks = {read_rank(ranks, "K", config.base), read_rank(ranks, "V", config.base)};
    if (config.rope_stage != RopeStage::kPost)
      file.object("cache").fail("rope_stage", "allowed post");
    return;
  }
  if (stage.text("axis") != "token") stage.fail("axis", "allowed token");
  const KvcObject params = stage.object("params");
  c.width = params.integer("width", 1);
  c.alpha = params.number("alpha", -1e-300);
  c.alpha_sum = params.choice<SmoothnessSum>("alpha_sum", kSmoothnessNames);
  c.answer_tokens = params.integer("answer_tokens", 0);
  config.activation = params.choice<HeadActivation>("activation", kActivationNames);
}

KvcJson stage_json(const KvcConfig& config) {
  const CompressorConfig& c = config.compressor;
  const bool channels = c.kind == CompressorKind::kMatryoshka;
  KvcJson json{{"type", compressor_kind_name(c.kind)}, {"axis", channels ? "channel" : "token"}};
  if (channels) {
    json["params"] = {{"center", true}};
    return json;
  }
  json["params"] = {{"width", c.width},
                    {"activation", name_of(kActivationNames, config.activation)},
                    {"alpha", c.alpha},
                    {"alpha_sum", name_of(kSmoothnessNames, c.alpha_sum)},
                    {"answer_tokens", c.answer_tokens}};
  return json;
}

KvcJson same_for_all(const KvcBase& base, std::int64_t rank) {
  const KvcJson layer(static_cast<std::size_t>(base.kv_heads), rank);
  return KvcJson(static_cast<std::size_t>(base.layers), layer);
}

}  // namespace

std::string kvc_config_json(const KvcConfig& config) {
  const CompressorConfig& c = config.compressor;
  KvcJson json{{"format", "kvc"}, {"version", 1}, {"base", base_json(config.base)}};
  json["cache"] = {{"rope_stage", name_of(kStageNames, config.rope_stage)},
                   {"position_policy", name_of(kPolicyNames, config.positions)},
                   {"sink", c.cache.sinks},
                   {"recent", c.cache.window},
                   {"recent_mode", "sliding"},
                   {"layout", "uniform"}};
  json["stages"] = KvcJson::array({stage_json(config)});
  json["budgets"] = {{"per_head", c.cache.budget}};
  if (c.kind == CompressorKind::kMatryoshka) {
    json["ranks"] = {{"K", same_for_all(config.base, c.ranks.key)},
                     {"V", same_for_all(config.base, c.ranks.value)}};
  }
  json["train"] = {{"data", config.training.data},
                   {"steps", config.training.steps},
                   {"lr", config.training.lr},
                   {"seed", config.training.seed}};
  return json.dump(2, ' ', false, KvcJson::error_handler_t::replace) + "\n";
}

KvcConfig parse_kvc_config(std::string_view text, std::string_view file) {
  const KvcJson parsed = KvcJson::parse(text, nullptr, false);
  if (parsed.is_discarded()) throw_user("{}: not JSON", file);
  const KvcObject json(parsed, std::string(file), "");
  if (json.text("format") != "kvc") json.fail("format", "allowed kvc");
  if (json.integer("version", 1) != 1) json.fail("version", "allowed 1");
  KvcConfig config;
  config.base = read_base(json.object("base"));
  const KvcObject cache = json.object("cache");
  config.rope_stage = cache.choice<RopeStage>("rope_stage", kStageNames);
  config.positions = cache.choice<PositionPolicy>("position_policy", kPolicyNames);
  config.compressor.cache.sinks = cache.integer("sink", 0);
  config.compressor.cache.window = cache.integer("recent", 1);
  if (cache.text("recent_mode") != "sliding") cache.fail("recent_mode", "allowed sliding");
  if (cache.text("layout") != "uniform") cache.fail("layout", "allowed uniform");
  const KvcJson& stages = json.field("stages");
  if (!stages.is_array() || stages.size() != 1) json.fail("stages", "allowed a list of one stage");
  read_stage(KvcObject(stages[0], std::string(file), "stages[0]"), json, config);
  const KvcObject budgets = json.object("budgets");
  const double budget = budgets.number("per_head", 0);
  if (budget > 1 && budget != std::floor(budget))
    budgets.fail("per_head", "allowed a share up to 1, or a whole number of positions");
  config.compressor.cache.budget = budget;
  return config;
}

KvcConfig load_kvc_config(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / kKvcConfigName;
  return parse_kvc_config(read_text_file(file, kKvcTextLimit), file.string());
}

bool is_compressor_directory(const std::filesystem::path& directory) {
  std::error_code ignored;
  return std::filesystem::exists(directory / kKvcConfigName, ignored);
}

void check_base(const KvcConfig& config, const KvcBase& model,
                const std::filesystem::path& directory, bool any_weights) {
  const KvcJson wanted = base_json(config.base), found = base_json(model);
  for (const auto& [name, value] : wanted.items()) {
    if (name == "weights_sha256" || found.at(name) == value) continue;
    throw_user("{}: a compressor of another model: {} is {} there, {} here", directory.string(),
               name, printable(value.dump(), 60), found.at(name).dump());
  }
  if (any_weights || config.base.weights_sha256 == model.weights_sha256) return;
  throw_user(
      "{}: a compressor of other weights (sha256 {}... there, {}... here); "
      "--compressor-any-weights takes it all the same",
      directory.string(), config.base.weights_sha256.substr(0, 12),
      model.weights_sha256.substr(0, 12));
}

}  // namespace thimble
