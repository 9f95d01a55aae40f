// GGUF files: codes against gguf-py's, and what a converted model's file holds.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "core/base/error.h"
#include "core/io/safetensors_model.h"
#include "data/tokenizer_vocabulary.h"
#include "launcher/convert/gguf_codes.h"
#include "launcher/convert/gguf_model.h"
#include "tests/launcher/program.h"

namespace thimble {
namespace {

const std::filesystem::path kGguf = "tests/fixtures/gguf";

std::vector<float> fixture_values() {
  const std::string bytes = read_text_file(kGguf / "values.bin", kMiB);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::string codes_of(std::span<const float> values, GgufType type) {
  std::vector<std::byte> codes;
  append_gguf_values(values, type, "t", codes);
  return {reinterpret_cast<const char*>(codes.data()), codes.size()};
}

TEST(GgufCodes, AreThoseOfTheReference) {
  const std::vector<float> values = fixture_values();
  ASSERT_EQ(values.size(), 12u * 64);
  const std::pair<GgufType, const char*> kinds[] = {{GgufType::kF16, "f16.bin"},
                                                    {GgufType::kBF16, "bf16.bin"},
                                                    {GgufType::kQ8_0, "q8_0.bin"},
                                                    {GgufType::kQ4_0, "q4_0.bin"}};
  for (const auto& [type, file] : kinds)
    EXPECT_TRUE(codes_of(values, type) == read_text_file(kGguf / file, kMiB)) << file;
  EXPECT_EQ(codes_of({}, GgufType::kQ8_0), "");
}

TEST(GgufCodes, WhatATypeCannotHoldIsRefused) {
  std::vector<float> values(32, 1.0f);
  const auto refused = [&](float value, GgufType type) {
    values[7] = value;
    try {
      static_cast<void>(codes_of(values, type));
      return false;
    } catch (const UserError& e) {
      return std::string(e.what()).find("tensor t") != std::string::npos;
    }
  };
  EXPECT_TRUE(refused(70000, GgufType::kF16));
  EXPECT_FALSE(refused(70000, GgufType::kBF16));
  EXPECT_TRUE(refused(1e9f, GgufType::kQ8_0));
  for (const float bad : {std::nanf(""), INFINITY}) {
    EXPECT_TRUE(refused(bad, GgufType::kQ8_0));
    EXPECT_TRUE(refused(bad, GgufType::kQ4_0));
    EXPECT_FALSE(refused(bad, GgufType::kF16));
  }
}

// A reader of what the tests look at.
struct GgufFile {
  std::string bytes;
  std::size_t at = 0;
  std::map<std::string, std::string> texts;
  std::map<std::string, double> numbers;
  std::map<std::string, std::vector<std::string>> lists;
  struct Place {
    std::vector<std::uint64_t> dims;
    std::uint32_t type = 0;
    std::uint64_t offset = 0;
  };
  std::map<std::string, Place> tensors;
  std::size_t data = 0;

  template <typename T>
  T take() {
    T value;
    std::memcpy(&value, bytes.data() + at, sizeof(T));
    at += sizeof(T);
    return value;
  }
  std::string text() {
    const auto size = take<std::uint64_t>();
    at += size;
    return bytes.substr(at - size, size);
  }
  double number(std::uint32_t type) {
    if (type == 6) return take<float>();
    if (type == 7) return take<std::uint8_t>();
    return take<std::uint32_t>();
  }

  explicit GgufFile(std::string all) : bytes(std::move(all)) {
    EXPECT_EQ(bytes.substr(0, 4), "GGUF");
    at = 4;
    EXPECT_EQ(take<std::uint32_t>(), 3u);
    const auto num_tensors = take<std::uint64_t>(), num_keys = take<std::uint64_t>();
    for (std::uint64_t i = 0; i < num_keys; ++i) read_key();
    for (std::uint64_t i = 0; i < num_tensors; ++i) {
      Place& place = tensors[text()];
      place.dims.resize(take<std::uint32_t>());
      for (std::uint64_t& dim : place.dims) dim = take<std::uint64_t>();
      place.type = take<std::uint32_t>();
      place.offset = take<std::uint64_t>();
      EXPECT_EQ(place.offset % 32, 0u);
    }
    data = (at + 31) / 32 * 32;
  }
  void read_key() {
    const std::string key = text();
    const auto type = take<std::uint32_t>();
    if (type == 8) {
      texts[key] = text();
    } else if (type != 9) {
      numbers[key] = number(type);
    } else {
      const auto of = take<std::uint32_t>();
      const auto count = take<std::uint64_t>();
      for (std::uint64_t i = 0; i < count; ++i)
        lists[key].push_back(of == 8 ? text() : std::to_string(number(of)));
    }
  }
};

TEST(GgufCommand, AModelItsTokenizerAndTheRowsOfQueriesAreWhereTheyBelong) {
  const ProgramDir d;
  ASSERT_EQ(d.run("train job.toml --set training.max_steps=1 --set model.dtype=fp32"), 0)
      << d.err();
  ASSERT_EQ(d.run("convert runs/job m.gguf --verify"), 0) << d.err();
  const GgufFile file(d.file("m.gguf"));
  EXPECT_EQ(file.texts.at("general.architecture"), "llama");
  EXPECT_EQ(file.numbers.at("llama.block_count"), 2);
  EXPECT_EQ(file.numbers.at("llama.attention.head_count_kv"), 2);
  EXPECT_EQ(file.texts.at("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(file.numbers.at("tokenizer.ggml.bos_token_id"), 256);
  EXPECT_EQ(file.lists.at("tokenizer.ggml.tokens").size(), 257u);
  EXPECT_EQ(file.lists.at("tokenizer.ggml.tokens")[' '], "\u0120");
  EXPECT_EQ(file.lists.count("tokenizer.ggml.merges"), 0u);  // none
  ASSERT_EQ(file.tensors.size(), 3u + 2 * 9);
  EXPECT_EQ(file.tensors.at("blk.1.ffn_down.weight").dims, (std::vector<std::uint64_t>{160, 64}));
  // Heads of 16: row 1 of a head in the file is row 8 of the model's.
  const SafetensorsModel model = SafetensorsModel::open(d.path("runs/job/model"));
  const auto found = model.find("model.layers.0.self_attn.q_proj.weight");
  ASSERT_NE(found.entry, nullptr);
  std::string rows(64 * 64 * 4, '\0');
  found.file->read(*found.entry, 0, std::as_writable_bytes(std::span(rows)));
  const std::size_t at = file.data + file.tensors.at("blk.0.attn_q.weight").offset;
  for (std::size_t r = 0; r < 64; ++r) {
    const std::size_t in_head = r % 16, from = r - in_head + in_head / 2 + in_head % 2 * 8;
    EXPECT_TRUE(file.bytes.substr(at + r * 256, 256) == rows.substr(from * 256, 256)) << r;
  }
  // In blocks; the table of tokens keeps 8 bits.
  ASSERT_EQ(d.run("convert runs/job small.gguf --dtype q4_0 --verify"), 0) << d.err();
  const GgufFile small(d.file("small.gguf"));
  EXPECT_EQ(small.tensors.at("blk.0.attn_k.weight").type, 2u);
  EXPECT_EQ(small.tensors.at("token_embd.weight").type, 8u);
  EXPECT_EQ(small.tensors.at("output_norm.weight").type, 0u);
}

TEST(GgufCommand, WhatLlamaCppWouldComputeOtherwiseIsRefused) {
  const ProgramDir d;
  const auto refused = [&](const std::string& keys, const std::string& said) {
    std::filesystem::remove_all(d.path("runs"));
    d.write("config.json", "{" + keys +
                               R"(,"hidden_size":32,"intermediate_size":48,"num_hidden_layers":1,)"
                               R"("num_attention_heads":4,"num_key_value_heads":2,)"
                               R"("vocab_size":257,"max_position_embeddings":64})");
    ASSERT_EQ(d.run("train job.toml --set training.max_steps=1"), 0) << d.err();
    EXPECT_EQ(d.run("convert runs/job m.gguf"), 2);
    EXPECT_NE(d.err().find(said), std::string::npos) << d.err();
    EXPECT_FALSE(std::filesystem::exists(d.path("m.gguf")));
  };
  refused(R"("model_type":"gemma2","head_dim":8)", "model_type \"gemma2\" is not written as GGUF");
  refused(R"("model_type":"llama","rope_scaling":{"rope_type":"dynamic","factor":2.0})",
          "rope_scaling");
  refused(R"("model_type":"llama","rope_scaling":{"rope_type":"yarn","factor":2.0,"beta_fast":16})",
          "beta_fast 32");
  EXPECT_EQ(d.run("convert runs/job m --dtype q8_0"), 2);
  EXPECT_NE(d.err().find("allowed with --to gguf"), std::string::npos) << d.err();
}

TEST(Vocabulary, MergesOfPiecesBecomeScores) {
  const TokenizerVocabulary v = json_vocabulary(
      R"({"added_tokens":[{"id":0,"content":"<unk>","special":true},{"id":6,"content":"!!"}],)"
      R"("normalizer":{"type":"Prepend","prepend":"\u2581"},"model":{"type":"BPE",)"
      R"("byte_fallback":true,"unk_token":"<unk>",)"
      R"("vocab":{"<unk>":0,"<0x41>":1,"a":2,"b":3,"ab":4,"aba":5},)"
      R"("merges":["a b",["ab","a"]]}})",
      "t.json");
  ASSERT_EQ(v.tokens.size(), 7u);
  EXPECT_FALSE(v.byte_level);
  EXPECT_TRUE(v.dummy_prefix);
  EXPECT_GT(v.tokens[4].score, v.tokens[5].score);
  EXPECT_EQ(v.tokens[0].kind, TokenKind::kControl);
  EXPECT_EQ(v.tokens[1].kind, TokenKind::kByte);
  EXPECT_EQ(v.tokens[6].kind, TokenKind::kUserDefined);
}

}  // namespace
}  // namespace thimble
