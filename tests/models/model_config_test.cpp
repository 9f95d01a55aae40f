// config.json: every key is honoured, without effect, or refused by name; defaults and precedence
// are those of transformers.
#include "models/model_config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

using Json = nlohmann::json;

Json minimal(const std::string& type = "llama") {
  return {{"model_type", type},       {"hidden_size", 64},
          {"intermediate_size", 96},  {"num_hidden_layers", 3},
          {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"vocab_size", 100},        {"max_position_embeddings", 256}};
}
ModelConfig parse(const Json& json) {
  return parse_model_config(json.dump(), "config.json");
}
Json changed(Json json, const std::string& key, const Json& value) {
  json[key] = value;
  return json;
}
void expect_refused(const Json& json, const std::string& part) {
  EXPECT_THROWS_WITH(UserError, "config.json: ", parse(json));
  EXPECT_THROWS_WITH(UserError, part, parse(json));
}

TEST(ModelConfig, DefaultsOfEachFamily) {
  for (const auto& [type, kv, positions, head_dim] :
       std::vector<std::tuple<std::string, std::int64_t, std::int64_t, std::int64_t>>{
           {"llama", 4, 2048, 16},
           {"mistral", 8, 131072, 2},
           {"qwen2", 32, 32768, 2},
           {"qwen3", 32, 32768, 128}}) {
    Json json = minimal(type);
    json.erase("num_key_value_heads");
    json.erase("max_position_embeddings");
    json["num_attention_heads"] = type == "llama" ? 4 : 32;
    const ModelConfig c = parse(json);
    EXPECT_EQ(c.num_kv_heads, kv) << type;
    EXPECT_EQ(c.max_positions, positions) << type;
    EXPECT_EQ(c.head_dim, head_dim) << type;
    EXPECT_EQ(parse(changed(json, "num_key_value_heads", nullptr)).num_kv_heads, c.num_heads);
  }
  EXPECT_EQ(parse(minimal("mistral")).windows, (std::vector<std::int64_t>{4096, 4096, 4096}));
  EXPECT_EQ(parse(changed(minimal("mistral"), "sliding_window", nullptr)).windows,
            (std::vector<std::int64_t>{0, 0, 0}));
  Json qwen = changed(minimal("qwen2"), "use_sliding_window", true);
  EXPECT_EQ(parse(qwen).windows, (std::vector<std::int64_t>{0, 0, 0}));  // the first 28 see all
  EXPECT_EQ(parse(changed(qwen, "max_window_layers", 1)).windows,
            (std::vector<std::int64_t>{0, 4096, 4096}));
  qwen["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention"};
  qwen["sliding_window"] = 9;
  EXPECT_EQ(parse(qwen).windows, (std::vector<std::int64_t>{9, 0, 9}));
}

TEST(ModelConfig, FamiliesReadOnlyTheirOwnKeys) {
  for (const std::string type : {"llama", "mistral", "qwen2", "qwen3"}) {
    Json json = minimal(type);
    json["attention_bias"] = true;
    json["mlp_bias"] = true;
    const ModelConfig c = parse(json);
    EXPECT_EQ(c.qkv_bias, type != "mistral") << type;
    EXPECT_EQ(c.out_bias, type == "llama" || type == "qwen3") << type;
    EXPECT_EQ(c.mlp_bias, type == "llama") << type;
    EXPECT_EQ(c.qk_norm, type == "qwen3") << type;
  }
  Json llama = changed(minimal(), "sliding_window", 5);
  llama["layer_types"] = {"sliding_attention", "sliding_attention", "sliding_attention"};
  EXPECT_EQ(parse(llama).windows, (std::vector<std::int64_t>{0, 0, 0}));
}

TEST(ModelConfig, RotaryParametersInEverySpelling) {
  const Json linear{{"rope_type", "linear"}, {"factor", 2.0}};
  const Json old{{"type", "dynamic"}, {"factor", 3.0}};
  Json both = minimal();
  both["rope_scaling"] = linear;
  both["rope_parameters"] = changed(old, "rope_theta", 77.0);
  EXPECT_EQ(parse(both).rope_scaling.type, RopeScaling::Type::kLinear);
  EXPECT_EQ(parse(both).rope_theta, 10000);  // nothing of rope_parameters counts
  EXPECT_EQ(parse(changed(both, "rope_theta", 5.0)).rope_theta, 5);
  for (const Json& none : {Json(nullptr), Json::object()}) {
    const ModelConfig c = parse(changed(both, "rope_scaling", none));
    EXPECT_EQ(c.rope_scaling.type, RopeScaling::Type::kDynamic);
    EXPECT_EQ(c.rope_theta, 77);
  }
  Json two_types = changed(minimal(), "rope_scaling", linear);
  two_types["rope_scaling"]["type"] = "yarn";
  EXPECT_EQ(parse(two_types).rope_scaling.type, RopeScaling::Type::kLinear);
  const Json yarn{{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 64},
                  {"beta_fast", 0},      {"mscale", 0},   {"mscale_all_dim", 1.0},
                  {"truncate", false}};
  const RopeScaling y = parse(changed(minimal(), "rope_scaling", yarn)).rope_scaling;
  EXPECT_FALSE(y.truncate);
  EXPECT_EQ(y.beta_fast, 32);
  EXPECT_FALSE(y.mscale.has_value());
  Json top = changed(minimal(), "rope_scaling", yarn);
  top["original_max_position_embeddings"] = 32;
  EXPECT_EQ(parse(top).rope_scaling.original_max_positions, 32);
  top["rope_scaling"]["factor"] = nullptr;
  EXPECT_EQ(parse(top).rope_scaling.factor, 8);
}

TEST(ModelConfig, NumbersOutOfRangeAreRefusedByName) {
  for (const Json& bad : {Json(0), Json(-1.0), Json(1e-50), Json(1e50), Json("x"), Json(nullptr)}) {
    expect_refused(changed(minimal(), "rope_theta", bad), "rope_theta");
    const Json rope{{"rope_type", "linear"}, {"factor", 2}, {"rope_theta", bad}};
    expect_refused(changed(minimal(), "rope_parameters", rope), "rope_parameters.rope_theta");
  }
  for (const Json& bad : {Json(-1e-6), Json(1e50), Json("x"), Json(nullptr)})
    expect_refused(changed(minimal(), "rms_norm_eps", bad), "rms_norm_eps");
  for (const Json& bad : {Json(-0.1), Json(1.5)})
    expect_refused(changed(minimal(), "initializer_range", bad), "initializer_range");
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "vocab_size", "max_position_embeddings", "head_dim"}) {
    for (const Json& bad : {Json(0), Json(-4), Json(4.0), Json(std::uint64_t{1} << 63),
                            Json(std::int64_t{1} << 40), Json("4")})
      expect_refused(changed(minimal(), key, bad), key);
  }
  for (const char* key : {"factor", "original_max_position_embeddings", "attention_factor",
                          "beta_fast", "beta_slow", "mscale", "mscale_all_dim"}) {
    Json rope{{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 64}};
    rope[key] = -1;
    expect_refused(changed(minimal(), "rope_scaling", rope), std::string("rope_scaling.") + key);
  }
  Json wave{{"rope_type", "llama3"}, {"factor", 4.0}, {"original_max_position_embeddings", 64}};
  wave["low_freq_factor"] = wave["high_freq_factor"] = 2.0;
  expect_refused(changed(minimal(), "rope_scaling", wave), "more than low_freq_factor");
  expect_refused(changed(changed(minimal(), "rope_theta", 1), "rope_scaling",
                         {{"rope_type", "yarn"}, {"factor", 2}}),
                 "yarn needs more than 1");
  expect_refused(changed(changed(minimal("mistral"), "head_dim", 2), "rope_scaling",
                         {{"type", "dynamic"}, {"factor", 2}}),
                 "dynamic rotary scaling needs 4");
  for (const Json& bad : {Json(-1), Json("x"), Json(2.5), Json(std::int64_t{1} << 24)})
    expect_refused(changed(minimal(), "eos_token_id", {1, bad}), "eos_token_id");
  EXPECT_THROWS_WITH(UserError, "config.json: malformed JSON",
                     parse_model_config(R"({"rms_norm_eps": NaN})", "config.json"));
  EXPECT_THROWS_WITH(UserError, "duplicate key 'vocab_size'",
                     parse_model_config(R"({"vocab_size": 1, "vocab_size": 2})", "config.json"));
}

TEST(ModelConfig, WhatChangesTheModelIsRefusedByName) {
  for (const auto& [key, value] : std::vector<std::pair<std::string, Json>>{
           {"hidden_act", "gelu"},
           {"hidden_act", "relu"},
           {"partial_rotary_factor", 0.5},
           {"quantization_config", {{"bits", 4}}},
           {"final_logit_softcapping", 30.0},
           {"is_causal", false},
           {"num_experts", 8},
           {"embedding_multiplier", 12.0},
           {"residual_multiplier", 0.5},
           {"query_pre_attn_scalar", 64},
           {"use_bidirectional_attention", true},
           {"pruned_heads", {{"0", {1}}}},
           {"per_layer_config", {{"0", {{"head_dim", 4}}}}},
           {"transformers_weights", "other.safetensors"},
           {"rope_scaling", {{"rope_type", "longrope"}, {"factor", 2.0}}},
           {"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.0}, {"new_field", 1}}},
           {"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}},
           {"rope_scaling", "linear"}}) {
    expect_refused(changed(minimal(), key, value), key == "hidden_act" ? "hidden_act" : key);
  }
  for (const Json& types : {Json::array({"full_attention"}), Json("x"),
                            Json::array({"full_attention", "full_attention", "linear_attention"}),
                            Json::array({"full_attention", "full_attention", "sliding_attention"})})
    expect_refused(changed(minimal("qwen2"), "layer_types", types), "layer_types");
}

TEST(ModelConfig, UnknownFamiliesAreRefusedWithTheKnownOnes) {
  expect_refused(changed(minimal(), "model_type", "bert"), "model_type 'bert' is not supported");
  for (const char* family :
       {"llama", "mistral", "qwen2", "qwen3", "granite", "olmo2", "phi3", "gemma2", "gemma3_text"})
    expect_refused(changed(minimal(), "model_type", "bert"), family);
  expect_refused(minimal("gemma3"), "gemma3_text");
}

TEST(ModelConfig, GraniteHasItsMultipliers) {
  Json json = minimal("granite");
  ModelConfig c = parse(json);
  EXPECT_EQ(c.attention_scale, 1);  // not 1 / sqrt(head_dim)
  EXPECT_EQ(c.embedding_scale, 1);
  json["embedding_multiplier"] = 12;
  json["attention_multiplier"] = 0.0078125;
  json["residual_multiplier"] = 0.22;
  json["logits_scaling"] = 8.0;
  c = parse(json);
  EXPECT_EQ(c.embedding_scale, 12);
  EXPECT_EQ(c.score_scale(), 0.0078125f);
  EXPECT_EQ(c.residual_scale, 0.22);
  EXPECT_EQ(c.logits_divisor, 8);
  EXPECT_FALSE(c.has_plain_layers());
  EXPECT_TRUE(parse(minimal()).has_plain_layers());
  for (const char* key :
       {"embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"})
    expect_refused(changed(json, key, 0), key);
}

TEST(ModelConfig, Phi3RotatesAPartByOneKindOfScaling) {
  Json json = minimal("phi3");  // heads of 16
  EXPECT_EQ(parse(json).rotated(), 16);
  EXPECT_EQ(parse(json).windows, (std::vector<std::int64_t>{0, 0, 0}));
  EXPECT_TRUE(parse(json).fused_projections);
  json["partial_rotary_factor"] = 0.75;
  EXPECT_EQ(parse(json).rotary_dim, 12);
  json["rope_parameters"] = {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}};
  EXPECT_EQ(parse(json).rotary_dim, 8);
  json.erase("rope_parameters");
  json["original_max_position_embeddings"] = 64;
  Json rope{
      {"type", "su"}, {"short_factor", {1, 1, 1, 1, 1, 2}}, {"long_factor", {1, 2, 3, 4, 5, 6}}};
  for (const char* type : {"su", "yarn", "longrope"}) {
    rope["type"] = type;
    const RopeScaling s = parse(changed(json, "rope_scaling", rope)).rope_scaling;
    EXPECT_EQ(s.type, RopeScaling::Type::kLongrope);
    EXPECT_EQ(s.factor, 4);  // 256 / 64
    EXPECT_EQ(s.long_factor, (std::vector<double>{1, 2, 3, 4, 5, 6}));
  }
  for (const Json& bad : {Json::array({1, 2}), Json("x"), Json::array({1, 1, 1, 1, 1, 0}), Json()})
    expect_refused(changed(json, "rope_scaling", changed(rope, "long_factor", bad)), "long_factor");
  expect_refused(changed(json, "rope_scaling", changed(rope, "type", "linear")), "longrope");
  for (const double bad : {0.0, 0.1, 0.2, 1.5})  // none, one, three of sixteen, more than all
    expect_refused(changed(json, "partial_rotary_factor", bad), "partial_rotary_factor");
}

TEST(ModelConfig, GemmaHasTwoKindsOfLayers) {
  Json json = minimal("gemma3_text");
  json["num_hidden_layers"] = 7;
  ModelConfig c = parse(json);
  EXPECT_EQ(c.windows, (std::vector<std::int64_t>{4096, 4096, 4096, 4096, 4096, 0, 4096}));
  EXPECT_EQ(c.head_dim, 256);
  EXPECT_EQ(c.score_scale(), 0.0625f);
  EXPECT_EQ(c.embedding_scale, 8);
  EXPECT_EQ(c.activation, Activation::kGeluTanh);
  EXPECT_TRUE(c.tied_lm_head && c.unit_norms && c.norm_before && c.norm_after && c.qk_norm);
  EXPECT_EQ(c.rope_theta, 1e6);
  EXPECT_EQ(c.local_rope_theta, 10000);
  Json hub = json;
  hub["sliding_window_pattern"] = 3;
  hub["sliding_window"] = 9;
  hub["rope_theta"] = 5e5;
  hub["rope_local_base_freq"] = 77;
  hub["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  c = parse(hub);
  EXPECT_EQ(c.windows, (std::vector<std::int64_t>{9, 9, 0, 9, 9, 0, 9}));
  Json now = changed(json, "sliding_window", 9);
  for (const std::int64_t w : c.windows)
    now["layer_types"].push_back(w > 0 ? "sliding_attention" : "full_attention");
  now["rope_parameters"] = {
      {"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 5e5}}},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 77.0}}}};
  EXPECT_TRUE(parse(now) == c);
  now["rope_parameters"]["sliding_attention"]["rope_type"] = "linear";
  expect_refused(now, "rope_parameters.sliding_attention.rope_type");
  now["rope_parameters"] = {{"rope_type", "default"}};
  expect_refused(now, "only full_attention and sliding_attention");
  expect_refused(changed(json, "sliding_window", nullptr), "sliding_window");
  expect_refused(changed(json, "hidden_activation", "gelu"), "hidden_activation 'gelu'");
  expect_refused(changed(json, "final_logit_softcapping", 30.0), "final_logit_softcapping");
}

TEST(ModelConfig, Gemma2CapsScoresAndLogits) {
  Json json = minimal("gemma2");
  ModelConfig c = parse(json);
  EXPECT_EQ(c.attention_softcap, 50);
  EXPECT_EQ(c.logits_softcap, 30);
  EXPECT_EQ(c.windows, (std::vector<std::int64_t>{4096, 0, 4096}));
  EXPECT_EQ(c.num_kv_heads, 2);
  EXPECT_FALSE(c.qk_norm || c.local_rope_theta);
  json["attn_logit_softcapping"] = nullptr;
  json["final_logit_softcapping"] = 7.5;
  c = parse(json);
  EXPECT_EQ(c.attention_softcap, 0);
  EXPECT_EQ(c.logits_softcap, 7.5);
  for (const Json& bad : {Json(0), Json(-1.0), Json("x")})
    expect_refused(changed(json, "attn_logit_softcapping", bad), "attn_logit_softcapping");
}

TEST(ModelConfig, WhatChangesNothingIsTaken) {
  const ModelConfig plain = parse(minimal());
  for (const auto& [key, value] : std::vector<std::pair<std::string, Json>>{
           {"hidden_act", "swish"},
           {"partial_rotary_factor", 1.0},
           {"quantization_config", nullptr},
           {"num_experts", 0},
           {"is_causal", true},
           {"pad_token_id", -1},
           {"use_cache", false},
           {"architectures", {"LlamaForCausalLM"}},
           {"rope_scaling", nullptr},
           {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 10000.0}}}}) {
    EXPECT_TRUE(parse(changed(minimal(), key, value)) == plain) << key;
  }
  std::string notes;
  const Json odd = changed(minimal(), "my_own_key", {{"a", 1}});
  const ModelConfig c = parse_model_config(odd.dump(), "config.json",
                                           [&](const std::string& note) { notes += note; });
  EXPECT_TRUE(c == plain);
  EXPECT_NE(notes.find("my_own_key"), std::string::npos) << notes;
}

TEST(ModelConfig, WhatIsWrittenReadsBackTheSame) {
  std::vector<Json> configs;
  for (const std::string type : {"llama", "mistral", "qwen2", "qwen3"}) {
    configs.push_back(minimal(type));
    configs.push_back(changed(minimal(type), "sliding_window", nullptr));
    Json windows = minimal(type);
    windows["use_sliding_window"] = true;
    windows["sliding_window"] = 7;
    windows["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention"};
    windows["eos_token_id"] = {1, 2};
    configs.push_back(windows);
    for (const char* rope : {"linear", "dynamic", "yarn", "llama3"}) {
      configs.push_back(changed(
          minimal(type), "rope_scaling",
          Json{{"rope_type", rope}, {"factor", 2.5}, {"truncate", false}, {"beta_slow", 2}}));
    }
  }
  for (const std::string type : {"granite", "olmo2", "phi3", "gemma3_text"})
    configs.push_back(minimal(type));
  // Of heads of 90 the nearest double of 26 / 90 would be 25 rotated.
  for (const int rotated : {66, 54, 26})
    configs.push_back(changed(changed(minimal("phi3"), "head_dim", 90), "partial_rotary_factor",
                              std::nextafter(rotated / 90.0, 1.0)));
  configs.push_back(changed(minimal("phi3"), "rope_scaling",
                            Json{{"rope_type", "longrope"},
                                 {"factor", 2.5},
                                 {"short_factor", {1, 2, 3, 4, 5, 6, 7, 8}},
                                 {"long_factor", {1, 2, 3, 4, 5, 6, 7, 9}},
                                 {"attention_factor", 1.25}}));
  Json granite = minimal("granite");
  granite["attention_multiplier"] = 0.1;
  granite["logits_scaling"] = 3.0;
  configs.push_back(granite);
  configs.push_back(changed(minimal("gemma3_text"), "query_pre_attn_scalar", 168));
  configs.push_back(minimal("gemma2"));
  configs.push_back(changed(minimal("gemma2"), "attn_logit_softcapping", nullptr));
  for (const Json& json : configs) {
    const ModelConfig c = parse(json);
    EXPECT_TRUE(parse_model_config(model_config_json(c, "float32"), "written") == c)
        << json << model_config_json(c, "float32");
  }
}

}  // namespace
}  // namespace thimble
