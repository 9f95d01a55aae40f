// Every family of models through the program: trained from nothing in the memory that was planned,
// sampled, exported under its own names, converted and back.
#include "core/io/safetensors_model.h"
#include "tests/launcher/program.h"

namespace thimble {
namespace {

constexpr const char* kShape =
    R"("hidden_size":32,"intermediate_size":48,"num_hidden_layers":2,"num_attention_heads":4,)"
    R"("num_key_value_heads":2,"vocab_size":257,"max_position_embeddings":128)";

struct Case {
  const char* keys;    // of config.json beside kShape
  const char* tensor;  // that the export holds
};

class FamilyRunTest : public ::testing::TestWithParam<Case> {
 protected:
  void run(const std::string& command) { ASSERT_EQ(d_.run(command), 0) << command << d_.err(); }
  ProgramDir d_;
};

TEST_P(FamilyRunTest, TrainsAndComesBackFromAnotherFormat) {
  const std::string config = std::string("{") + GetParam().keys + "," + kShape + "}";
  d_.write("config.json", config);
  run("train job.toml --set training.max_steps=2 --set 'eval.sample_prompts=[\"the\"]'");
  EXPECT_NE(d_.err().find("sample: the"), std::string::npos) << d_.err();
  run("generate --model runs/job --prompt the --max-new-tokens 4");
  const std::string weights = d_.file("runs/job/model/model.safetensors");
  const SafetensorsModel model = SafetensorsModel::open(d_.path("runs/job/model"));
  EXPECT_NE(model.find(GetParam().tensor).entry, nullptr);
  run("convert runs/job/checkpoints/ckpt-2 there --to dcp --verify");
  run("convert there back --to hf --dtype bf16 --allow-cast --model runs/job/model");
  EXPECT_TRUE(d_.file("back/model.safetensors") == weights);
  run("convert runs/job/model again --to hf --verify");
  EXPECT_TRUE(d_.file("again/model.safetensors") == weights);
  run("convert there start --to thimble --verify --model runs/job/model");
}

INSTANTIATE_TEST_SUITE_P(
    Families, FamilyRunTest,
    ::testing::Values(
        Case{R"("model_type":"granite","embedding_multiplier":12,"residual_multiplier":0.22,)"
             R"("attention_multiplier":0.1,"logits_scaling":8)",
             "model.layers.1.mlp.up_proj.weight"},
        Case{R"("model_type":"olmo2")", "model.layers.1.post_feedforward_layernorm.weight"},
        Case{R"("model_type":"phi3","partial_rotary_factor":0.75)",
             "model.layers.1.self_attn.qkv_proj.weight"},
        Case{R"("model_type":"gemma2","head_dim":8,"sliding_window":9)",
             "model.layers.1.pre_feedforward_layernorm.weight"},
        Case{R"("model_type":"gemma3_text","head_dim":16,"sliding_window":9)",
             "model.layers.1.self_attn.q_norm.weight"}));

TEST(FamilyRun, WhatAFormatOrAFamilyHasNoFormForIsRefused) {
  const ProgramDir d;
  d.write("config.json", std::string(R"({"model_type":"phi3",)") + kShape + "}");
  EXPECT_EQ(d.run("plan job.toml --set 'model.rope_scaling={rope_type=\"linear\",factor=2.0}'"), 2);
  EXPECT_NE(d.err().find("supported: default, longrope"), std::string::npos) << d.err();
  d.write("config.json", std::string(R"({"model_type":"bloom",)") + kShape + "}");
  EXPECT_EQ(d.run("plan job.toml"), 2);
  for (const char* family : {"llama", "granite", "olmo2", "phi3", "gemma2", "gemma3_text"})
    EXPECT_NE(d.err().find(family), std::string::npos) << d.err();
}

}  // namespace
}  // namespace thimble
