// Round trips, invalid UTF-8, streaming, threads: what holds for every kind of tokenizer.
#include <thread>

#include "core/base/random.h"
#include "tests/data/tokenizer_test_util.h"

namespace thimble {
namespace {

using Ids = std::vector<std::int32_t>;

const std::vector<std::string> kWords = {
    "he", "ll", "llo", "hello", " h", " hello", " w", "or", "ld", " wor", " world", "  ", "a",
    "b",  "c",  "h",   "e",     "l",  "o",      " ",  "w",  "r",  "d",    "aa",     "ab", "aab"};

struct Named {
  std::string name;
  std::unique_ptr<Tokenizer> tokenizer;
};

/// One tokenizer of every kind; all of them keep every byte of a text, but mistral's Metaspace
/// takes a space at the very start for its own dummy space.
std::vector<Named> all_kinds() {
  const TokenizerFolder folder;
  std::vector<Named> kinds;
  kinds.push_back({"byte", load_tokenizer("byte")});
  for (const char* name : {"llama3", "smollm2", "gpt2", "llama2", "mistral"}) {
    kinds.push_back({name, load_json(fixture_case(name))});
  }
  kinds.push_back(
      {"llama2c", load_tokenizer(folder.write("t.bin", llama2c_file(test_pieces(kWords, " "))))});
  kinds.push_back(
      {"sentencepiece",
       load_tokenizer(folder.write("t.model", sentencepiece_file(test_pieces(kWords, "\u2581"))))});
  return kinds;
}

std::string random_text(std::uint64_t seed, std::size_t length, std::string_view alphabet) {
  const CounterRandom random(seed, RandomPurpose::kDataOrder);
  std::string text;
  for (std::size_t i = 0; i < length; ++i) {
    const std::uint32_t draw = random.u32(i);
    text += alphabet.empty() ? static_cast<char>(draw) : alphabet[draw % alphabet.size()];
  }
  return text;
}

std::string kept(const std::string& name, const std::string& text) {
  return name == "mistral" && text.starts_with(' ') ? text.substr(1) : text;
}

TEST(Tokenizer, RoundTripsRandomBytes) {
  for (const auto& [name, tokenizer] : all_kinds()) {
    for (std::uint64_t seed = 0; seed < 40; ++seed) {
      const std::string text = random_text(seed, seed * 3, "");
      const Ids ids = tokenizer->encode(text);
      EXPECT_EQ(tokenizer->decode(ids), kept(name, text)) << name << ", seed " << seed;
    }
  }
}

TEST(Tokenizer, RoundTripsTextWithManySpacesAndBrokenCharacters) {
  const std::string alphabet = "aabbch elow rld  \n\xE2\x82\xAC\xF0\x9F\x99\x82<|>s/";
  for (const auto& [name, tokenizer] : all_kinds()) {
    for (std::uint64_t seed = 0; seed < 40; ++seed) {
      const std::string text = random_text(seed, 5 + seed * 7, alphabet);
      const Ids ids = tokenizer->encode(text);
      EXPECT_EQ(tokenizer->decode(ids), kept(name, text)) << name << ", seed " << seed;
      for (const std::int32_t id : ids) {
        EXPECT_FALSE(tokenizer->is_special(id)) << name;
      }
    }
  }
}

TEST(Tokenizer, InvalidBytesDoNotDisturbTheirNeighbours) {
  const auto tokenizer = load_json(fixture_case("gpt2"));
  const Ids left = tokenizer->encode("the water");
  const Ids right = tokenizer->encode(" of the");
  const Ids both = tokenizer->encode("the water\xFF of the");
  ASSERT_EQ(both.size(), left.size() + 1 + right.size());
  EXPECT_TRUE(std::equal(left.begin(), left.end(), both.begin()));
  EXPECT_TRUE(std::equal(right.rbegin(), right.rend(), both.rbegin()));
  EXPECT_EQ(tokenizer->token_text(both[left.size()]), "\xFF");
}

TEST(Tokenizer, EmptyTextHasNoTokens) {
  for (const auto& [name, tokenizer] : all_kinds()) {
    EXPECT_TRUE(tokenizer->encode("").empty()) << name;
    EXPECT_EQ(tokenizer->decode({}), "") << name;
  }
}

TEST(Tokenizer, ByteTokenizerIsBytesAndASeparator) {
  const auto tokenizer = load_tokenizer("byte");
  EXPECT_EQ(tokenizer->vocab_size(), 257);
  EXPECT_EQ(tokenizer->bos_id(), 256);
  EXPECT_EQ(tokenizer->eos_id(), 256);
  EXPECT_TRUE(tokenizer->add_bos());
  EXPECT_EQ(tokenizer->encode("a\xFF"), (Ids{97, 255}));
  EXPECT_EQ(tokenizer->encode("a<|endoftext|>b", {.parse_special = true}), (Ids{97, 256, 98}));
  EXPECT_EQ(tokenizer->encode("<|endoftext|>", {.parse_special = false}).size(), 13u);
  EXPECT_EQ(tokenizer->decode(Ids{97, 256, 98}), "ab");
  EXPECT_EQ(tokenizer->decode(Ids{97, 256, 98}, {.skip_special = false}), "a<|endoftext|>b");
}

// A model's embedding is often padded beyond its tokenizer's vocabulary.
TEST(Tokenizer, IdsWithoutATokenAreNothing) {
  for (const auto& [name, tokenizer] : all_kinds()) {
    for (const std::int64_t bad :
         {tokenizer->vocab_size(), std::int64_t{1} << 30, std::int64_t{-1}}) {
      const auto id = static_cast<std::int32_t>(bad);
      Ids ids = tokenizer->encode("hello world");
      const std::string text = tokenizer->decode(ids);
      ids.insert(ids.begin(), id);
      ids.push_back(id);
      EXPECT_EQ(tokenizer->decode(ids), text) << name;
      EXPECT_EQ(tokenizer->token_text(id), "") << name;
      EXPECT_FALSE(tokenizer->is_special(id)) << name;
      StreamDecoder stream(*tokenizer);
      std::string streamed;
      for (const std::int32_t i : ids) streamed += stream.push(i);
      EXPECT_EQ(streamed + stream.finish(), text) << name;
    }
  }
}

TEST(StreamDecoder, GivesWholeCharactersOnly) {
  for (const auto& [name, tokenizer] : all_kinds()) {
    const std::string text = "hello \u20AC \U0001F642 world \u00E9\u00E9";
    StreamDecoder stream(*tokenizer);
    std::string joined;
    for (const std::int32_t id : tokenizer->encode(text)) {
      const std::string part = stream.push(id);
      EXPECT_NO_THROW((void)nlohmann::json(part).dump()) << name << ": not whole characters";
      joined += part;
    }
    EXPECT_EQ(stream.finish(), "") << name;
    EXPECT_EQ(joined, text) << name;
  }
}

TEST(StreamDecoder, InvalidBytesPassAndACutCharacterComesLast) {
  const auto tokenizer = load_tokenizer("byte");
  StreamDecoder stream(*tokenizer);
  EXPECT_EQ(stream.push(0xFF), "\xFF");
  EXPECT_EQ(stream.push(0xE2), "");
  EXPECT_EQ(stream.push('a'),
            "\xE2"
            "a");
  EXPECT_EQ(stream.push(0xF0), "");
  EXPECT_EQ(stream.push(0x9F), "");
  EXPECT_EQ(stream.push(0x99), "");
  EXPECT_EQ(stream.push(256), "");
  EXPECT_EQ(stream.finish(), "\xF0\x9F\x99");
  EXPECT_EQ(stream.finish(), "");
}

TEST(StreamDecoder, KeepsTheSpaceWhenContinuingAPrompt) {
  const auto tokenizer = load_json(fixture_case("llama2"));
  const Ids ids = tokenizer->encode("the");
  StreamDecoder at_start(*tokenizer);
  StreamDecoder inside(*tokenizer, false);
  std::string start_text;
  std::string inside_text;
  for (const std::int32_t id : ids) {
    start_text += at_start.push(id);
    inside_text += inside.push(id);
  }
  EXPECT_EQ(start_text, "the");
  EXPECT_EQ(inside_text, " the");
  Ids two_documents = {1};
  two_documents.insert(two_documents.end(), ids.begin(), ids.end());
  two_documents.insert(two_documents.end(), two_documents.begin(), two_documents.end());
  EXPECT_EQ(tokenizer->decode(two_documents), "thethe");
}

TEST(Tokenizer, ThreadsAgreeWhileTokenizersAlternate) {
  const auto kinds = all_kinds();
  const std::string text = random_text(5, 4000, "aabbch elow rld  \n\xE2\x82\xAC");
  std::vector<Ids> expected;
  for (const auto& kind : kinds) expected.push_back(kind.tokenizer->encode(text));
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 3; ++round) {
        for (std::size_t k = 0; k < kinds.size(); ++k) {
          wrong[t] += kinds[k].tokenizer->encode(text) != expected[k] ? 1 : 0;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(Tokenizer, CuttingAtSpacesChangesNothing) {
  // The token "a b" has a space inside, so the second tokenizer may not cut, yet never uses that
  // token: it has no merge.
  const auto cutting = load_json(fixture_case("llama2"));
  auto other = fixture_case("llama2");
  other["model"]["vocab"]["a\u2581b"] = other["model"]["vocab"].size();
  const auto whole = load_json(other);
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    const std::string text = random_text(seed, 200, "  tthheeoaifnw.\n");
    EXPECT_EQ(cutting->encode(text), whole->encode(text)) << "seed " << seed;
  }
}

TEST(Tokenizer, LongUnbrokenTextIsFast) {
  const auto tokenizer = load_json(fixture_case("llama2"));
  const std::string text(300'000, 'e');
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  const auto bytes = load_json(fixture_case("llama3"));
  const std::string spaces(300'000, ' ');
  EXPECT_EQ(bytes->decode(bytes->encode(spaces)), spaces);
}

TEST(Tokenizer, DigestFollowsTheContent) {
  const auto first = load_json(fixture_case("gpt2"));
  const auto same = load_tokenizer_json(fixture_case("gpt2").dump(), "another name");
  const auto other = load_json(fixture_case("smollm2"));
  EXPECT_EQ(first->digest(), same->digest());
  EXPECT_NE(first->digest(), other->digest());
  EXPECT_NE(first->digest(), load_tokenizer("byte")->digest());
}

}  // namespace
}  // namespace thimble
