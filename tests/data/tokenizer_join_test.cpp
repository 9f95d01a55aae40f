// Texts in parts, prompt and completion or the pieces of a long document, have the ids of the
// whole.
#include <random>

#include "data/tokenize.h"
#include "tests/data/corpus_test_util.h"
#include "tests/data/tokenizer_test_util.h"

namespace thimble {
namespace {

using Ids = std::vector<std::int32_t>;
using testing::TempDir;

std::vector<std::pair<std::string, std::unique_ptr<Tokenizer>>> fixture_tokenizers() {
  std::vector<std::pair<std::string, std::unique_ptr<Tokenizer>>> all;
  for (const auto& item : fixture("cases.json")) {
    const auto base = fixture(item["base"].get<std::string>() + ".json");
    all.emplace_back(item["name"].get<std::string>(), load_json(patched(base, item["patch"])));
  }
  return all;
}

// Words, digits, punctuation, spaces, returns, marks and special tokens, in any order.
std::string random_text(std::mt19937& random, int parts) {
  static const std::vector<std::string> kParts{
      "the", " the", "me",  " there",  "upon",  " a ti", "1",      "234",           " ",
      "  ",  "\n",   "\t",  ".",       ",",     "=",     "\u00E9", " \u4F60\u597D", "\U0001F642",
      "'s",  "n't",  "<s>", "<|end|>", "HELLO", "ab"};
  std::string text;
  for (int i = 0; i < parts; ++i) text += kParts[random() % kParts.size()];
  return text;
}

TEST(TokenizerJoin, PromptAndCompletionHaveTheIdsOfTheirText) {
  std::mt19937 random(5);
  for (const auto& [name, tokenizer] : fixture_tokenizers()) {
    for (int i = 0; i < 300; ++i) {
      const std::string prompt = random_text(random, static_cast<int>(1 + random() % 6));
      const std::string completion = random_text(random, static_cast<int>(random() % 6));
      for (const bool parse : {true, false}) {
        Ids ids;
        const DocumentRecord record =
            tokenize_piece({.prompt = prompt, .text = completion}, *tokenizer, parse, ids);
        const EncodeOptions options{.parse_special = parse};
        Ids want = tokenizer->encode(prompt + completion, options);
        std::int64_t prompt_tokens = record.prompt_tokens;
        if (tokenizer->add_bos() && tokenizer->bos_id()) {
          want.insert(want.begin(), *tokenizer->bos_id());
          EXPECT_GE(prompt_tokens, 1);
        }
        if (tokenizer->eos_id()) want.push_back(*tokenizer->eos_id());
        ASSERT_EQ(ids, want) << name << ": " << prompt << "|" << completion;
        // The prompt's ids are those that it has alone, but for what reaches over its end.
        Ids alone = tokenizer->encode(prompt, options);
        if (want.size() > 1 && tokenizer->add_bos() && tokenizer->bos_id())
          alone.insert(alone.begin(), *tokenizer->bos_id());
        ASSERT_LE(prompt_tokens, static_cast<std::int64_t>(ids.size()));
        std::size_t in_prompt = 0, whole = 0;
        for (std::int64_t k = 0; k < prompt_tokens; ++k)
          in_prompt += tokenizer->token_text(ids[static_cast<std::size_t>(k)]).size();
        for (const std::int32_t id : alone) whole += tokenizer->token_text(id).size();
        EXPECT_LE(in_prompt, whole) << name << ": " << prompt << "|" << completion;
        const bool prefix =
            alone.size() < ids.size() && std::equal(alone.begin(), alone.end(), ids.begin());
        if (prefix) {
          EXPECT_EQ(prompt_tokens, static_cast<std::int64_t>(alone.size())) << name;
        }
      }
    }
  }
}

TEST(TokenizerJoin, ATokenOverTheBoundaryIsTheCompletions) {
  int found = 0;
  for (const auto& [name, tokenizer] : fixture_tokenizers()) {
    // Find a token that a cut in its middle does not give.
    for (const std::string text : {"the", "there", "hello", "ing"}) {
      const Ids whole = tokenizer->encode(text);
      if (whole.size() != 1) continue;
      ++found;
      Ids ids;
      const DocumentRecord record = tokenize_piece(
          {.prompt = text.substr(0, 1), .text = text.substr(1)}, *tokenizer, true, ids);
      const bool bos = tokenizer->add_bos() && tokenizer->bos_id();
      EXPECT_EQ(record.prompt_tokens, bos ? 1 : 0) << name << ": " << text;
    }
  }
  EXPECT_GT(found, 10);
}

// A document of several pieces; half of the tokenizers put a space in front of a text.
TEST(TokenizerJoin, LongDocumentsHaveTheIdsOfTheWhole) {
  std::mt19937 random(7);
  std::string text;
  while (text.size() < kPieceBytes + 300000) text += random_text(random, 40) + " and so on ";
  TempDir dir;
  SourceSpec source{.paths = {dir.write("long.txt", text)}};
  source.format = SampleFormat::kText;
  std::set<std::string> seen;
  int multi = 0;
  for (const auto& [name, tokenizer] : fixture_tokenizers()) {
    if (!seen.insert(name.substr(0, 5)).second || seen.size() > 4) continue;
    tokenize_files(source, *tokenizer, dir.file("out.tokens"), {.threads = 2});
    const TokenFile file(dir.file("out.tokens"));
    Ids ids(static_cast<std::size_t>(file.num_tokens()));
    file.copy_tokens(0, ids);
    Ids want;
    if (tokenizer->add_bos() && tokenizer->bos_id()) want.push_back(*tokenizer->bos_id());
    tokenizer->encode_to(text, {}, want);
    if (tokenizer->eos_id()) want.push_back(*tokenizer->eos_id());
    EXPECT_TRUE(ids == want) << name;
    DocumentReader reader(source, source.paths, {}, [&, &t = *tokenizer](auto left, auto right) {
      return is_safe_cut(t, true, left, right);
    });
    int pieces = 0;
    while (reader.next()) ++pieces;
    multi += pieces > 1 ? 1 : 0;
    std::filesystem::remove(dir.file("out.tokens"));
  }
  EXPECT_GE(multi, 3);
}

}  // namespace
}  // namespace thimble
