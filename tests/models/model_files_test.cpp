// What an export carries along of the directory a model came from.
#include "models/model_files.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "models/generation_config.h"
#include "models/hf_export.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::read_bytes;
using testing::TempDir;
using testing::write_bytes;

// Spaces, order, spellings and keys as nobody but its author would write them.
constexpr const char* kSource = R"({ "pad_token_id":0,
   "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,"num_hidden_layers": 1,
 "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 64, "rms_norm_eps": 1e-05,
  "rope_parameters": {"type": "default", "rope_theta": 5e5}, "my_key": {"a": [1, "Ü"]},
  "torch_dtype": "bfloat16" } )";

TEST(GenerationConfig, GetsTheEndOfTurnThatWasTrainedOn) {
  const auto with = [](const char* text, std::vector<std::int32_t> of_model) {
    return with_end_id(text, std::move(of_model), 7);
  };
  EXPECT_EQ(with("", {}), "{\n  \"eos_token_id\": [\n    7\n  ]\n}\n");
  EXPECT_EQ(json::parse(with("", {2}))["eos_token_id"], json({2, 7}));
  // Its own list counts before the model's; all else stays, in its order.
  const std::string made = with(R"({"z": 0.5, "eos_token_id": 3, "a": [null]})", {2});
  EXPECT_EQ(nlohmann::ordered_json::parse(made).dump(),
            R"({"z":0.5,"eos_token_id":[3,7],"a":[null]})");
  EXPECT_EQ(parse_generation_config(made, "g").eos_ids, (std::vector<std::int32_t>{3, 7}));
  for (const char* same : {R"({ "eos_token_id": [7 ,3]})", R"({"eos_token_id":7 })"})
    EXPECT_EQ(with(same, {2}), same);
}

TEST(ExportedConfig, IsTheSameBytesWhereItMeansTheSame) {
  const ModelConfig config = parse_model_config(kSource, "s");
  EXPECT_EQ(exported_config(config, DType::kBF16, kSource), kSource);
  EXPECT_EQ(exported_config(config, DType::kBF16, ""), model_config_json(config, "bfloat16"));
}

TEST(ExportedConfig, OnlyWhatChangedIsReplaced) {
  ModelConfig config = parse_model_config(kSource, "s");
  json want = json::parse(kSource);
  want["torch_dtype"] = "float32";
  EXPECT_EQ(json::parse(exported_config(config, DType::kF32, kSource)), want);
  config.tied_lm_head = true;
  want["tie_word_embeddings"] = true;
  EXPECT_EQ(json::parse(exported_config(config, DType::kF32, kSource)), want);
  config.rope_scaling = {.type = RopeScaling::Type::kYarn,
                         .factor = 4,
                         .original_max_positions = 64,
                         .truncate = false};
  config.max_positions = 256;
  const std::string stretched = exported_config(config, DType::kF32, kSource);
  EXPECT_TRUE(parse_model_config(stretched, "s") == config) << stretched;
  EXPECT_FALSE(json::parse(stretched).contains("rope_parameters"));
  EXPECT_EQ(json::parse(stretched)["my_key"], want["my_key"]);
  EXPECT_EQ(json::parse(stretched)["pad_token_id"], 0);
}

std::vector<std::string> names(const std::vector<fs::path>& paths) {
  std::vector<std::string> out;
  for (const fs::path& p : paths) out.push_back(p.lexically_normal().string());
  std::sort(out.begin(), out.end());
  return out;
}

TEST(ExportedFiles, EverythingButWeightsWithTheTokenizerInUse) {
  const TempDir dir;
  for (const char* name :
       {"m/config.json", "m/generation_config.json", "m/README.md", "m/tokenizer.json",
        "m/added_tokens.json", "m/model.safetensors", "m/model.safetensors.index.json",
        "m/pytorch_model.bin", "m/optimizer.pt", "m/training_args.bin", "m/tokenizer.byte",
        "m/onnx/model.onnx", "m/additional_chat_templates/tool.jinja", "t/tokenizer.json",
        "t/README.md", "t/vocab.json"}) {
    fs::create_directories((dir / name).parent_path());
    write_bytes(dir / name, name);
  }
  fs::create_symlink("m/README.md", dir / "link");
  const auto at = [&](std::vector<std::string> list) {
    for (std::string& name : list) name = (dir / name).string();
    std::sort(list.begin(), list.end());
    return list;
  };
  EXPECT_EQ(names(exported_files(dir / "m", dir / "m")),
            at({"m/generation_config.json", "m/README.md", "m/tokenizer.json",
                "m/added_tokens.json", "m/additional_chat_templates"}));
  EXPECT_EQ(names(exported_files(dir / "m", dir / "t")),
            at({"m/generation_config.json", "m/README.md", "t/tokenizer.json", "t/vocab.json"}));
  EXPECT_EQ(names(exported_files(dir / "m", "byte")), names(exported_files(dir / "m", dir / "m")));
  fs::remove(dir / "m/tokenizer.byte");  // now its own tokenizer is another
  EXPECT_EQ(names(exported_files(dir / "m", "byte")),
            at({"m/generation_config.json", "m/README.md"}));
  EXPECT_EQ(names(exported_files("", dir / "t/tokenizer.json")), at({"t/tokenizer.json"}));
  EXPECT_TRUE(exported_files("", "").empty());

  fs::create_directory(dir / "out");
  EXPECT_FALSE(exported_files(dir / "m", dir / "m").empty());
  for (const fs::path& file : exported_files(dir / "m", dir / "m")) copy_into(file, dir / "out");
  EXPECT_EQ(read_bytes(dir / "out/additional_chat_templates/tool.jinja"),
            "m/additional_chat_templates/tool.jinja");
  EXPECT_EQ(read_bytes(dir / "out/README.md"), "m/README.md");
}

}  // namespace
}  // namespace thimble
