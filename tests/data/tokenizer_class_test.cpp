// Directories of vocab.json and merges.txt: the class of the tokenizer gives the rules; and what
// many added tokens cost.
#include <ctime>

#include "data/tokenizer_text.h"
#include "tests/data/tokenizer_test_util.h"

namespace thimble {
namespace {

using Ids = std::vector<std::int32_t>;
using nlohmann::json;

const std::vector<std::string> kSpecial = {"<|endoftext|>", "<s>",   "</s>",
                                           "<unk>",         "<pad>", "<mask>"};

/// The vocabulary of the byte-level fixture with kSpecial behind it, and its merges.
void write_vocabulary(const TokenizerFolder& folder) {
  auto base = fixture("bytelevel.json");
  for (const std::string& text : kSpecial) {
    base["model"]["vocab"].emplace(text, base["model"]["vocab"].size());
  }
  folder.write_json("vocab.json", base["model"]["vocab"]);
  std::string merges = "#version: 0.2\n";
  for (const auto& merge : base["model"]["merges"]) {
    merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
  }
  folder.write("merges.txt", merges);
}

TEST(TokenizerClass, GivesTheIdsOfTheReference) {
  const auto texts = fixture("texts.json");
  const auto cases = fixture("classes.json");
  ASSERT_GE(cases.size(), 20u);
  for (const auto& item : cases) {
    SCOPED_TRACE(item["files"].dump());
    const TokenizerFolder folder;
    write_vocabulary(folder);
    for (const auto& [name, content] : item["files"].items()) folder.write_json(name, content);
    const auto tokenizer = load_tokenizer(folder.path());
    EXPECT_EQ(tokenizer->add_bos(), item["framed"].get<bool>());
    EXPECT_EQ(tokenizer->add_eos(), item["framed"].get<bool>());
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto text = texts[i].get<std::string>();
      const Ids plain = item["plain"][i];
      const auto key = std::to_string(i);
      EXPECT_EQ(tokenizer->encode(text, {.parse_special = false}), plain) << texts[i];
      const Ids special = item["special"].contains(key) ? item["special"][key].get<Ids>() : plain;
      EXPECT_EQ(tokenizer->encode(text, {.parse_special = true}), special) << texts[i];
    }
  }
}

TEST(TokenizerClass, RulesAreInTheDigest) {
  const TokenizerFolder folder;
  write_vocabulary(folder);
  const auto digest = [&](const json& config) {
    folder.write_json("tokenizer_config.json", config);
    return load_tokenizer(folder.path())->digest();
  };
  const auto gpt2 = digest(json::object());
  EXPECT_EQ(digest({{"tokenizer_class", "GPT2TokenizerFast"}}), gpt2);
  const json neutral = {{"bos_token", "<|endoftext|>"}, {"eos_token", "<|endoftext|>"}};
  const auto with = [&](json more) {
    more.update(neutral);
    return digest(more);
  };
  EXPECT_NE(with({{"tokenizer_class", "Qwen2Tokenizer"}}), gpt2);
  EXPECT_NE(with({{"tokenizer_class", "GPTNeoXTokenizer"}}), gpt2);
  EXPECT_NE(with({{"add_prefix_space", true}}), gpt2);
}

TEST(TokenizerClass, UnknownOnesAreRefusedByName) {
  const TokenizerFolder folder;
  write_vocabulary(folder);
  for (const std::string name : {"CLIPTokenizer", "LlamaTokenizer", "Fast", "gpt2tokenizer"}) {
    folder.write_json("tokenizer_config.json", json{{"tokenizer_class", name}});
    expect_user_error([&] { load_tokenizer(folder.path()); },
                      {"tokenizer_config.json: tokenizer_class", name, "merges.txt",
                       "GPT2Tokenizer", "Qwen2Tokenizer"});
  }
  // A tokenizer.json states its rules itself.
  folder.write_json("tokenizer.json", fixture_case("gpt2"));
  EXPECT_NO_THROW(load_tokenizer(folder.path()));
}

/// Seconds of CPU to load a tokenizer with `count` added tokens, given in the file `where`.
double seconds_to_load(int count, const std::string& where) {
  json tokenizer = fixture_case("gpt2");
  const std::size_t first = tokenizer["model"]["vocab"].size();
  tokenizer["added_tokens"] = json::array();
  json decoder = json::object();
  json map = json::object();
  for (int i = 0; i < count; ++i) {
    const std::string text = fmt::format("<|token_{}|>", i);
    const json token = {{"content", text}, {"special", i % 2 == 0}, {"normalized", false}};
    const std::size_t id = first + static_cast<std::size_t>(i);
    if (where == "tokenizer.json") {
      tokenizer["added_tokens"].push_back(token);
      tokenizer["added_tokens"].back()["id"] = id;
    }
    decoder[std::to_string(id)] = token;
    map[text] = id;
  }
  const TokenizerFolder folder;
  folder.write_json("tokenizer.json", tokenizer);
  if (where == "tokenizer_config.json") {
    folder.write_json(where, json{{"added_tokens_decoder", decoder}});
  }
  if (where == "added_tokens.json") folder.write_json(where, map);
  const std::clock_t start = std::clock();
  const auto loaded = load_tokenizer(folder.path());
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  EXPECT_EQ(loaded->vocab_size(), static_cast<std::int64_t>(first) + count);
  return seconds;
}

TEST(AddedTokens, ManyLoadInLinearTime) {
  for (const std::string where : {"tokenizer.json", "tokenizer_config.json", "added_tokens.json"}) {
    seconds_to_load(10, where);
    const double few = seconds_to_load(10'000, where);
    const double many = seconds_to_load(80'000, where);
    // Eight times as many; were it quadratic, 64 times the time.
    EXPECT_LT(many, 24 * few + 0.1) << where << ": " << few << " s and " << many << " s";
  }
}

/// Tokens that a long text of one prefix and many lengths must not make slow to find.
TEST(AddedTokens, ManyLengthsAreFoundInLinearTime) {
  json tokenizer = fixture_case("gpt2");
  const std::size_t first = tokenizer["model"]["vocab"].size();
  tokenizer["added_tokens"] = json::array();
  constexpr int kTokens = 500;
  for (int i = 0; i < kTokens; ++i) {
    tokenizer["added_tokens"].push_back(
        {{"id", first + static_cast<std::size_t>(i)},
         {"content", std::string(static_cast<std::size_t>(i) + 2, '<') + ">"},
         {"special", false}});
  }
  const auto loaded = load_json(tokenizer);
  EXPECT_EQ(loaded->encode("a<<<>b").size(), 3u);
  EXPECT_EQ(loaded->encode("<<<<>")[0], static_cast<std::int32_t>(first) + 2);
  const std::string text(1 << 19, '.');
  std::string hostile;
  for (std::size_t i = 0; i < text.size(); i += 2) hostile += "<.";
  const std::clock_t start = std::clock();
  loaded->encode(hostile);
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 2.0);
}

}  // namespace
}  // namespace thimble
