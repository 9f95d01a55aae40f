// Which files of a directory count, and what the configuration beside a vocabulary changes.
#include "tests/data/tokenizer_test_util.h"

namespace thimble {
namespace {

using Ids = std::vector<std::int32_t>;
using nlohmann::json;

const std::vector<std::string> kLoadedWords = {"he", "ll", "llo", "hello", " hello",
                                         "h",  "e",  "l",   "o",     " "};

/// The vocabulary and merges of the byte-level fixture as GPT-2's two files.
void write_gpt2(const TokenizerFolder& folder, const std::string& prefix) {
  auto base = fixture("bytelevel.json");
  base["model"]["vocab"]["<|endoftext|>"] = base["model"]["vocab"].size();
  folder.write_json(prefix + "vocab.json", base["model"]["vocab"]);
  std::string merges = "#version: 0.2\r\n";
  for (const auto& merge : base["model"]["merges"]) {
    merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\r\n";
  }
  folder.write(prefix + "merges.txt", merges);
}

TEST(LoadTokenizer, Gpt2FilesEqualTheirTokenizerJson) {
  const TokenizerFolder folder;
  write_gpt2(folder, "small_");
  const auto tokenizer = load_tokenizer(folder.path() / "small_vocab.json");
  const auto reference = load_json(fixture_case("gpt2"));
  for (const auto& text : fixture("texts.json")) {
    const auto plain = text.get<std::string>();
    if (plain.find("<tool>") != std::string::npos) continue;
    EXPECT_EQ(tokenizer->encode(plain, {.parse_special = false}),
              reference->encode(plain, {.parse_special = false}))
        << text;
  }
  const auto end = tokenizer->special_id("<|endoftext|>");
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(tokenizer->bos_id(), end);
  EXPECT_EQ(tokenizer->eos_id(), end);
  EXPECT_FALSE(tokenizer->add_bos());
  EXPECT_EQ(tokenizer->encode("<|endoftext|>", {}), (Ids{*end}));
  EXPECT_GT(tokenizer->encode("<|endoftext|>", {.parse_special = false}).size(), 1u);
}

TEST(LoadTokenizer, DirectoryPrefersTokenizerJson) {
  const TokenizerFolder folder;
  folder.write("tokenizer.bin", llama2c_file(test_pieces(kLoadedWords, " ")));
  EXPECT_EQ(load_tokenizer(folder.path())->name(), (folder.path() / "tokenizer.bin").string());
  write_gpt2(folder, "");
  EXPECT_EQ(load_tokenizer(folder.path())->name(), (folder.path() / "vocab.json").string());
  folder.write("tokenizer.model", sentencepiece_file(test_pieces(kLoadedWords, "\u2581")));
  EXPECT_EQ(load_tokenizer(folder.path())->name(), (folder.path() / "tokenizer.model").string());
  folder.write_json("tokenizer.json", fixture_case("llama3"));
  EXPECT_EQ(load_tokenizer(folder.path())->name(), (folder.path() / "tokenizer.json").string());
}

TEST(LoadTokenizer, ConfigurationNamesTheSpecialTokens) {
  const TokenizerFolder folder;
  folder.write_json("tokenizer.json", fixture_case("qwen2"));
  folder.write_json("config.json",
                    json{{"bos_token_id", 7}, {"eos_token_id", {9, 8}}, {"pad_token_id", nullptr}});
  auto tokenizer = load_tokenizer(folder.path());
  EXPECT_EQ(tokenizer->bos_id(), 7);
  EXPECT_EQ(tokenizer->eos_id(), 9);
  EXPECT_FALSE(tokenizer->add_bos());

  folder.write_json("special_tokens_map.json",
                    json{{"eos_token", "<|begin|>"}, {"pad_token", "<|begin|>"}});
  const auto begin = tokenizer->special_id("<|begin|>");
  const auto end = tokenizer->special_id("<|end|>");
  tokenizer = load_tokenizer(folder.path());
  EXPECT_EQ(tokenizer->eos_id(), begin);
  EXPECT_EQ(tokenizer->pad_id(), begin);

  folder.write_json("tokenizer_config.json", json{{"bos_token", nullptr},
                                                  {"eos_token", {{"content", "<|end|>"}}},
                                                  {"add_bos_token", true},
                                                  {"add_eos_token", true}});
  tokenizer = load_tokenizer(folder.path() / "tokenizer.json");
  EXPECT_EQ(tokenizer->bos_id(), std::nullopt);
  EXPECT_EQ(tokenizer->eos_id(), end);
  EXPECT_FALSE(tokenizer->add_bos());
  EXPECT_TRUE(tokenizer->add_eos());
}

TEST(LoadTokenizer, ConfigurationMayTurnTheTemplateOff) {
  const TokenizerFolder folder;
  folder.write_json("tokenizer.json", fixture_case("llama3"));
  const auto with = load_tokenizer(folder.path());
  EXPECT_TRUE(with->add_bos());
  folder.write_json("tokenizer_config.json", json{{"add_bos_token", false}});
  const auto without = load_tokenizer(folder.path());
  EXPECT_FALSE(without->add_bos());
  EXPECT_NE(with->digest(), without->digest());
}

TEST(LoadTokenizer, AddedTokensOfTheConfiguration) {
  const TokenizerFolder folder;
  folder.write("tokenizer.model", sentencepiece_file(test_pieces(kLoadedWords, "\u2581")));
  const std::size_t size = 259 + kLoadedWords.size();
  folder.write_json("added_tokens.json", json{{"<|im_end|>", size + 1}});
  folder.write_json("tokenizer_config.json",
                    json{{"added_tokens_decoder",
                          {{std::to_string(size), {{"content", "<tool>"}, {"special", false}}}}},
                         {"eos_token", "<|im_end|>"}});
  const auto tokenizer = load_tokenizer(folder.path());
  const auto first = static_cast<std::int32_t>(size);
  EXPECT_EQ(tokenizer->vocab_size(), first + 2);
  EXPECT_EQ(tokenizer->eos_id(), first + 1);
  EXPECT_EQ(tokenizer->encode("<tool>hello"), (Ids{first, 262}));
  EXPECT_EQ(tokenizer->encode("hello<|im_end|>", {}), (Ids{263, first + 1}));
}

TEST(LoadTokenizer, SentencePieceAndLlama2cAgree) {
  const TokenizerFolder folder;
  const auto a =
      load_tokenizer(folder.write("t.model", sentencepiece_file(test_pieces(kLoadedWords, "\u2581"))));
  const auto b = load_tokenizer(folder.write("t.bin", llama2c_file(test_pieces(kLoadedWords, " "))));
  EXPECT_EQ(a->encode("hello hello"), (Ids{263, 263}));
  for (const std::string text :
       {"hello", " hello", "hellohell o  ", "x hello\xFFhello", "\n", "h\u00E9llo"}) {
    EXPECT_EQ(a->encode(text), b->encode(text)) << text;
    EXPECT_EQ(b->decode(b->encode(text)), text);
  }
  EXPECT_EQ(a->bos_id(), b->bos_id());
  EXPECT_EQ(a->vocab_size(), b->vocab_size());
  EXPECT_TRUE(a->add_bos() && b->add_bos());
}

TEST(LoadTokenizer, UnigramModelsAreEncodedWhole) {
  const TokenizerFolder folder;
  const auto tokenizer =
      load_tokenizer(folder.write("t.model", sentencepiece_file(test_pieces(kLoadedWords, "\u2581"), 1)));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("hello hello oh")), "hello hello oh");
}

TEST(LoadTokenizer, PathsThatHoldNoTokenizer) {
  const TokenizerFolder folder;
  expect_user_error([&] { load_tokenizer(folder.path() / "absent"); },
                    {"absent", "no such file", "byte"});
  expect_user_error([&] { load_tokenizer(folder.path()); },
                    {folder.path().string(), "holds no tokenizer", "tokenizer.json",
                     "tokenizer.model", "vocab.json"});
  expect_user_error([&] { load_tokenizer(folder.write("t.txt", "")); },
                    {"t.txt", "supported", "*.model"});
  expect_user_error([&] { load_tokenizer(folder.write("a_vocab.json", "{}")); },
                    {"a_vocab.json", "a_merges.txt"});
}

TEST(LoadTokenizer, FaultyConfigurationIsNamed) {
  const TokenizerFolder folder;
  folder.write_json("tokenizer.json", fixture_case("qwen2"));
  const auto refused = [&](const json& config, const std::vector<std::string>& parts) {
    folder.write_json("tokenizer_config.json", config);
    expect_user_error([&] { load_tokenizer(folder.path()); }, parts);
  };
  refused(json{{"bos_token", "<nope>"}},
          {"tokenizer_config.json: bos_token", "<nope>", "not a token"});
  refused(json{{"bos_token", 3}},
          {"tokenizer_config.json: bos_token", "expected a string", "number"});
  refused(json{{"add_bos_token", "yes"}}, {"add_bos_token", "expected true or false"});
  refused(json{{"added_tokens_decoder", {{"x", json::object()}}}}, {"added_tokens_decoder", "'x'"});
  folder.write("tokenizer_config.json", "{");
  expect_user_error([&] { load_tokenizer(folder.path()); },
                    {"tokenizer_config.json", "not valid JSON"});
}

}  // namespace
}  // namespace thimble
