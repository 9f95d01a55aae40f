// Which tensors and files of a model directory are taken, in every way in which they come.
#include <gtest/gtest.h>

#include "core/io/safetensors_model.h"
#include "core/nn/param_store.h"
#include "models/transformer.h"
#include "models/weight_sources.h"
#include "tests/io/temp_dir.h"
#include "train/weight_loading.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;
using testing::write_bytes;

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

struct Stored {
  std::string name;
  Shape shape;
  float fill;
  DType dtype = DType::kF32;
};

std::string config_text(bool tied) {
  return std::string(
             R"({"model_type":"llama","hidden_size":4,"intermediate_size":6,"num_hidden_layers":1,)"
             R"("num_attention_heads":2,"vocab_size":5,"tie_word_embeddings":)") +
         (tied ? "true}" : "false}");
}

// Everything of the model above but the embedding and the head.
std::vector<Stored> body() {
  const std::string layer = "model.layers.0.";
  return {{layer + "input_layernorm.weight", Shape{4}, 1},
          {layer + "self_attn.q_proj.weight", Shape{4, 4}, 1},
          {layer + "self_attn.k_proj.weight", Shape{4, 4}, 1},
          {layer + "self_attn.v_proj.weight", Shape{4, 4}, 1},
          {layer + "self_attn.o_proj.weight", Shape{4, 4}, 1},
          {layer + "post_attention_layernorm.weight", Shape{4}, 1},
          {layer + "mlp.gate_proj.weight", Shape{6, 4}, 1},
          {layer + "mlp.up_proj.weight", Shape{6, 4}, 1},
          {layer + "mlp.down_proj.weight", Shape{4, 6}, 1},
          {"model.norm.weight", Shape{4}, 1}};
}

void write_file(const fs::path& path, const std::vector<Stored>& tensors,
                const std::map<std::string, std::string>& metadata = {}) {
  std::vector<SafetensorsSpec> specs;
  for (const Stored& t : tensors)
    specs.push_back({t.name, t.dtype, {t.shape.dims().begin(), t.shape.dims().end()}});
  SafetensorsWriter writer(path, specs, metadata);
  for (const Stored& t : tensors) {
    if (t.dtype == DType::kF32) {
      const std::vector<float> values(static_cast<std::size_t>(t.shape.numel()), t.fill);
      writer.write(t.name, std::as_bytes(std::span(values)));
    } else {
      const std::vector<BF16> values(static_cast<std::size_t>(t.shape.numel()), to_bf16(t.fill));
      writer.write(t.name, std::as_bytes(std::span(values)));
    }
  }
  writer.finish();
}

std::vector<Stored> with(std::vector<Stored> more) {
  std::vector<Stored> all = body();
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

// What a directory loads as: the first value of a parameter, and the notes on the way.
struct LoadedModel {
  explicit LoadedModel(const fs::path& directory) {
    const NoteFn note = [this](const std::string& text) { notes += text + "\n"; };
    config = load_hf_config(directory, note);
    model = std::make_unique<Transformer>(config);
    store = std::make_unique<ResidentParamStore>(*arena, model->params(), DType::kF32, false);
    HfSource source(*arena, directory, model->params(), note);
    load_weights(*arena, *model, *store, source);
  }
  float first(const char* name) const {
    return store->writable(*model->params().find(name)).data<float>()[0];
  }
  bool noted(const std::string& text) const { return notes.find(text) != std::string::npos; }

  std::string notes;
  ModelConfig config;
  std::unique_ptr<Arena> arena = Arena::make_cpu(kMiB * 64);
  std::unique_ptr<Transformer> model;
  std::unique_ptr<ResidentParamStore> store;
};

TEST(HfSource, ATiedModelMayStoreOnlyItsHead) {
  const TempDir dir;
  write_bytes(dir / "config.json", config_text(true));
  write_file(dir / "model.safetensors", with({{kHead, Shape{5, 4}, 3}}));
  const LoadedModel loaded(dir.path());
  EXPECT_TRUE(loaded.config.tied_lm_head);
  EXPECT_EQ(loaded.first(kEmbedding), 3);
  EXPECT_TRUE(loaded.noted("is read from lm_head.weight")) << loaded.notes;
  EXPECT_FALSE(loaded.noted("not used")) << loaded.notes;
}

TEST(HfSource, AliasesOfTheMetadataStandForTensors) {
  for (const bool tied : {true, false}) {
    for (const bool head_stored : {true, false}) {
      const TempDir dir;
      write_bytes(dir / "config.json", config_text(tied));
      const char* stored = head_stored ? kHead : kEmbedding;
      const char* other = head_stored ? kEmbedding : kHead;
      write_file(dir / "model.safetensors", with({{stored, Shape{5, 4}, 7}}),
                 {{"format", "pt"}, {other, stored}, {"x", "not.there"}});
      const LoadedModel loaded(dir.path());
      EXPECT_EQ(loaded.first(kEmbedding), 7);
      if (!tied) {
        EXPECT_EQ(loaded.first(kHead), 7);
      }
    }
  }
}

TEST(HfSource, AnUntiedModelNeedsBothOrAnAlias) {
  const TempDir dir;
  write_bytes(dir / "config.json", config_text(false));
  write_file(dir / "model.safetensors", with({{kHead, Shape{5, 4}, 3}}), {{kEmbedding, "none"}});
  EXPECT_THROWS_WITH(UserError, "tensor model.embed_tokens.weight is missing",
                     LoadedModel(dir.path()));
}

TEST(HfSource, ATiedModelWithAnotherHeadIsNotTied) {
  for (const auto& [fill, dtype, tied] :
       std::vector<std::tuple<float, DType, bool>>{{3, DType::kF32, true},
                                                   {3, DType::kBF16, true},
                                                   {4, DType::kF32, false},
                                                   {4, DType::kBF16, false}}) {
    const TempDir dir;
    write_bytes(dir / "config.json", config_text(true));
    write_file(dir / "model.safetensors",
               with({{kEmbedding, Shape{5, 4}, 3}, {kHead, Shape{5, 4}, fill, dtype}}));
    const LoadedModel loaded(dir.path());
    EXPECT_EQ(loaded.config.tied_lm_head, tied);
    EXPECT_EQ(loaded.noted("they are not tied"), !tied) << loaded.notes;
    EXPECT_EQ(loaded.first(kEmbedding), 3);
    if (!tied) {
      EXPECT_EQ(loaded.first(kHead), 4);
    }
  }
}

TEST(HfSource, TheSingleFileCountsMoreThanAnIndexAndItsShards) {
  const TempDir dir;
  write_bytes(dir / "config.json", config_text(true));
  const auto old = with({{kEmbedding, Shape{5, 4}, 1}});
  write_file(dir / "model-00001-of-00001.safetensors", old);
  SafetensorsIndex index;
  for (const Stored& t : old) index.weight_map[t.name] = "model-00001-of-00001.safetensors";
  index.save(dir / kSafetensorsIndexName);
  write_bytes(dir / "pytorch_model.bin", "x");
  {
    const LoadedModel loaded(dir.path());
    EXPECT_EQ(loaded.first(kEmbedding), 1);
    EXPECT_TRUE(loaded.noted("those of model.safetensors.index.json; not read: pytorch_model.bin"))
        << loaded.notes;
  }
  write_file(dir / "model.safetensors", with({{kEmbedding, Shape{5, 4}, 2}}));
  const LoadedModel loaded(dir.path());
  EXPECT_EQ(loaded.first(kEmbedding), 2);
  EXPECT_TRUE(
      loaded.noted("those of model.safetensors; not read: model-00001-of-00001.safetensors, "
                   "model.safetensors.index.json, pytorch_model.bin"))
      << loaded.notes;
}

TEST(HfSource, ShardsThatTheIndexDoesNotNameAreNotRead) {
  const TempDir dir;
  write_bytes(dir / "config.json", config_text(true));
  const auto tensors = with({{kEmbedding, Shape{5, 4}, 1}});
  write_file(dir / "a.safetensors", tensors);
  SafetensorsIndex index;
  for (const Stored& t : tensors) index.weight_map[t.name] = "a.safetensors";
  index.save(dir / kSafetensorsIndexName);
  write_bytes(dir / "model-00009-of-00009.safetensors", "damaged");
  const LoadedModel loaded(dir.path());
  EXPECT_TRUE(loaded.noted("not read: model-00009-of-00009.safetensors")) << loaded.notes;
}

TEST(HfSource, ADirectoryOfOtherFormatsSaysHowToConvert) {
  const TempDir dir;
  write_bytes(dir / "config.json", config_text(true));
  write_bytes(dir / "pytorch_model.bin", "x");
  EXPECT_THROWS_WITH(UserError, "pytorch_model.bin cannot be read", LoadedModel(dir.path()));
}

}  // namespace
}  // namespace thimble
