// Files that are wrong: every one gets a message that names the file, the field and what is
// allowed; none crashes.
#include <limits>

#include "tests/data/tokenizer_test_util.h"

namespace thimble {
namespace {

using nlohmann::json;

/// A minimal tokenizer.json: byte-level vocabulary of two letters and one merge.
json tiny() {
  return json::parse(
      R"({"added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
    "pre_tokenizer": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})");
}

void refused(const json& tokenizer, const std::vector<std::string>& parts) {
  std::vector<std::string> all = {"t.json"};
  all.insert(all.end(), parts.begin(), parts.end());
  expect_user_error([&] { load_json(tokenizer); }, all);
}

json with(const std::string& pointer, const json& value) {
  json tokenizer = tiny();
  tokenizer[json::json_pointer(pointer)] = value;
  return tokenizer;
}

TEST(TokenizerErrors, TinyOneIsFine) {
  EXPECT_EQ(load_json(tiny())->vocab_size(), 3);
}

TEST(TokenizerErrors, UnknownTypesAreRefusedByName) {
  refused(with("/pre_tokenizer/type", "Foo"),
          {"pre_tokenizer type 'Foo' is not supported; supported: ByteLevel"});
  refused(with("/pre_tokenizer",
               {{"type", "Sequence"}, {"pretokenizers", {{{"type", "BertPreTokenizer"}}}}}),
          {"pre_tokenizer.pretokenizers[0] type 'BertPreTokenizer'"});
  refused(with("/normalizer", {{"type", "BertNormalizer"}}),
          {"normalizer type 'BertNormalizer'", "NFC"});
  refused(with("/post_processor", {{"type", "BertProcessing"}}),
          {"post_processor type", "TemplateProcessing"});
  refused(with("/decoder", {{"type", "WordPiece"}}), {"decoder type 'WordPiece'", "ByteFallback"});
  refused(with("/model/type", "Unigram"),
          {"model.type 'Unigram' is not supported; supported: BPE"});
}

TEST(TokenizerErrors, UnknownFieldsAreRefusedByName) {
  refused(with("/extra", 1), {"field 'extra' is not supported", "pre_tokenizer"});
  refused(with("/model/extra", 1), {"model: field 'extra'", "ignore_merges"});
  refused(with("/pre_tokenizer/extra", 1), {"pre_tokenizer: field 'extra'", "use_regex"});
  refused(with("/model/dropout", 0.1), {"model.dropout is not supported"});
  refused(with("/model/continuing_subword_prefix", "##"), {"model.continuing_subword_prefix '##'"});
}

TEST(TokenizerErrors, WrongTypes) {
  refused(json::array(), {"expected an object, found array"});
  refused(with("/model", 3), {"model: expected an object, found number"});
  refused(with("/model/vocab/a", "x"), {"model.vocab.a: expected an integer, found string"});
  refused(with("/model/vocab/a", 0.5), {"expected an integer"});
  refused(with("/model/merges", "x"), {"model.merges: expected a list"});
  refused(with("/model/byte_fallback", 1), {"model.byte_fallback: expected true or false"});
  refused(with("/pre_tokenizer/type", nullptr),
          {"pre_tokenizer.type: expected a string, found null"});
}

TEST(TokenizerErrors, Ids) {
  refused(with("/model/vocab/a", -1), {"model.vocab.a", "-1 is not between 0 and"});
  refused(with("/model/vocab/a", std::numeric_limits<std::uint64_t>::max()), {"is not between"});
  refused(with("/model/vocab/a", 1), {"'a'", "'b'", "same id 1"});
  refused(with("/model/vocab/a", 4'000'000), {"4000000", "too large for a vocabulary of 3 tokens"});
  refused(with("/model/vocab", json{{"b", 0}}), {"'a' is not in the vocabulary"});
  json empty = with("/model/vocab", json::object());
  empty["model"]["merges"] = json::array();
  refused(empty, {"the vocabulary is empty"});
}

TEST(TokenizerErrors, Merges) {
  refused(with("/model/merges", {"a"}), {"model.merges[0]", "'a' is not two parts"});
  refused(with("/model/merges", {"a b c"}), {"model.merges[0]", "two parts"});
  refused(with("/model/merges", {{"a", "b", "ab"}}),
          {"model.merges[0]", "a merge has 2 parts, found 3"});
  refused(with("/model/merges", {"a b", "b b"}),
          {"model.merges[1]", "'bb' is not in the vocabulary"});
  refused(with("/model/unk_token", "<u>"), {"model.unk_token '<u>' is not in the vocabulary"});
}

TEST(TokenizerErrors, AddedTokens) {
  refused(with("/added_tokens", {{{"id", 0}, {"content", "<x>"}}}),
          {"'<x>' has id 0, which belongs to 'a'"});
  refused(with("/added_tokens", {{{"id", 5}, {"content", "a"}}}),
          {"'a' has id 5, but its text already has id 0"});
  refused(with("/added_tokens", {{{"content", "<x>"}}}),
          {"added_tokens[0].id: expected an integer, found nothing"});
  refused(with("/added_tokens", {{{"id", 3}, {"content", "<x>"}, {"odd", 1}}}),
          {"added_tokens[0]: field 'odd'"});
}

TEST(TokenizerErrors, Patterns) {
  const auto split = [](const json& pattern) {
    json tokenizer =
        with("/pre_tokenizer", {{"type", "Split"}, {"pattern", pattern}, {"behavior", "Isolated"}});
    return tokenizer;
  };
  refused(split({{"Regex", "("}}),
          {"pre_tokenizer.pattern",
           "pattern '(' is not supported: a '(' without its ')' before byte 1"});
  refused(split({{"Regex", "(a|b)\\1"}}), {"a back-reference"});
  refused(split({{"Regex", R"([\b])"}}), {R"(\b in a class)"});
  refused(split({{"Regex", ""}}), {"pattern is empty"});
  refused(split({{"Glob", "*"}}), {"field 'Glob' is not supported; supported: String, Regex"});
  refused(split({{"Regex", std::string(70'000, 'a')}}), {"1 to 65536 bytes", "70000"});
  refused(with("/pre_tokenizer",
               {{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "Odd"}}),
          {"pre_tokenizer.behavior: 'Odd'", "MergedWithNext"});
}

TEST(TokenizerErrors, ExplodingPatternGivesUp) {
  json tokenizer =
      with("/pre_tokenizer",
           {{"type", "Split"}, {"pattern", {{"Regex", "(a|aa|aaa)+$"}}}, {"behavior", "Isolated"}});
  const auto loaded = load_json(tokenizer);
  expect_user_error([&] { loaded->encode(std::string(200, 'a') + "b"); },
                    {"t.json: pre_tokenizer.pattern", "gives up"});
}

TEST(TokenizerErrors, StagesThatDoNotFit) {
  refused(with("/decoder", {{"type", "Fuse"}}),
          {"decoder", "ByteLevel decoder and a ByteLevel pre_tokenizer belong together"});
  refused(
      with("/pre_tokenizer", {{"type", "Sequence"},
                              {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Digits"}}}}}),
      {"pretokenizers[1]", "nothing may follow ByteLevel"});
  json strip = with("/pre_tokenizer", nullptr);
  strip["decoder"] = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
  refused(strip, {"decoder: Strip is supported after Fuse"});
  strip["decoder"] = {{"type", "Metaspace"}, {"replacement", "ab"}};
  refused(strip, {"decoder.replacement: 'ab' is not one character"});
  const json two = {{"SpecialToken", {{"id", "a"}}}};
  refused(with("/post_processor", {{"type", "TemplateProcessing"},
                                   {"single", {two, two, {{"Sequence", {{"id", "A"}}}}}},
                                   {"special_tokens", {{"a", {{"ids", {0}}}}}}}),
          {"post_processor.single[1]", "more than one special token before"});
  refused(with("/post_processor", {{"type", "TemplateProcessing"},
                                   {"single", {two, {{"Sequence", {{"id", "A"}}}}}},
                                   {"special_tokens", {{"a", {{"ids", {99}}}}}}}),
          {"special token id 99 is outside the vocabulary [0, 2]"});
}

TEST(TokenizerErrors, GrowthIsBounded) {
  const json doubling = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
  json many = json::array();
  for (int i = 0; i < 60; ++i) many.push_back(doubling);
  const auto loaded = load_json(with("/normalizer", {{"type", "Sequence"}, {"normalizers", many}}));
  expect_user_error([&] { loaded->encode("aaa"); },
                    {"t.json: the normalizer turns 3 bytes of text into"});
  json decoder = with("/pre_tokenizer", nullptr);
  decoder["decoder"] = {{"type", "Sequence"}, {"decoders", many}};
  expect_user_error([&] { load_json(decoder); },
                    {"t.json: decoder: makes a token longer than 65536"});
  json prepend = with("/normalizer", {{"type", "Prepend"}, {"prepend", std::string(65, 'x')}});
  refused(prepend, {"normalizer.prepend: has 65 bytes, allowed: 64"});
  refused(with("/model/vocab/" + std::string(70'000, 'x'), 9), {"has 70000 bytes, allowed: 65536"});
}

TEST(TokenizerErrors, NotJson) {
  expect_user_error([] { load_tokenizer_json("", "t.json"); }, {"t.json", "not valid JSON"});
  expect_user_error([] { load_tokenizer_json("\xFF", "t.json"); }, {"not valid JSON"});
  expect_user_error([] { load_tokenizer_json(std::string(100'000, '['), "t.json"); },
                    {"deeper than 64 levels"});
}

TEST(TokenizerErrors, EveryPrefixOfATokenizerJsonIsRefused) {
  const std::string text = tiny().dump();
  for (std::size_t length = 0; length < text.size(); ++length) {
    EXPECT_THROW((void)load_tokenizer_json(text.substr(0, length), "t.json"), UserError) << length;
  }
}

TEST(TokenizerErrors, MergesTextNamesTheLine) {
  const TokenizerFolder folder;
  folder.write_json("vocab.json", json{{"a", 0}, {"b", 1}, {"ab", 2}});
  folder.write("merges.txt", "#version: 0.2\na b\nb a\n");
  expect_user_error([&] { load_tokenizer(folder.path()); },
                    {"merges.txt:3", "'ba' is not in the vocabulary"});
  folder.write("merges.txt", "a b\n\na b\n");
  expect_user_error([&] { load_tokenizer(folder.path()); }, {"merges.txt:2", "two parts"});
}

TEST(TokenizerErrors, Llama2cFiles) {
  const TokenizerFolder folder;
  const std::string good = llama2c_file(test_pieces({"a"}, " "));
  const auto load = [&](const std::string& bytes) { load_tokenizer(folder.write("t.bin", bytes)); };
  load(good);
  for (std::size_t length = 0; length < good.size(); length += 1 + length / 8) {
    EXPECT_THROW(load(good.substr(0, length)), UserError) << length;
  }
  std::string bad = good;
  bad[8] = '\x7F';
  bad[11] = '\x7F';
  expect_user_error([&] { load(bad); }, {"t.bin", "token 0 has", "allowed: 0 to 1024"});
  expect_user_error([&] { load(std::string(64, '\xFF')); },
                    {"longest token", "not a llama2.c tokenizer"});
  auto pieces = test_pieces({}, " ");
  pieces[5].score = std::numeric_limits<float>::quiet_NaN();
  expect_user_error([&] { load(llama2c_file(pieces)); }, {"token 5 has no finite score"});
  pieces.erase(pieces.begin() + 5);
  expect_user_error([&] { load(llama2c_file(pieces)); }, {"has no token <0x02>"});
}

TEST(TokenizerErrors, SentencePieceFiles) {
  const TokenizerFolder folder;
  const auto pieces = test_pieces({"a", "b", "ab"}, "_");
  const std::string good = sentencepiece_file(pieces);
  const auto load = [&](const std::string& bytes) {
    (void)load_tokenizer(folder.write("t.model", bytes))->encode("ab c");
  };
  load(good);
  expect_user_error([&] { load(""); }, {"t.model", "0 pieces"});
  expect_user_error([&] { load("\xFF\xFF\xFF"); }, {"t.model", "not a SentencePiece model"});
  expect_user_error([&] { load(sentencepiece_file(pieces, 3)); },
                    {"model type 3 is not supported"});
  expect_user_error([&] { load(sentencepiece_file(pieces, 2, "xxxxyyyyzzzz")); },
                    {"character map", "malformed"});
  // Prefixes that end between fields are sound messages; the others are refused.
  for (std::size_t length = 0; length < good.size(); length += 1 + length / 16) {
    try {
      load(good.substr(0, length));
    } catch (const UserError&) {
    }
  }
}

TEST(TokenizerErrors, FlippedBytesNeverCrash) {
  const TokenizerFolder folder;
  const auto pieces = test_pieces({"a", "b", "ab"}, "_");
  const std::string files[] = {tiny().dump(), llama2c_file(pieces), sentencepiece_file(pieces)};
  const char* names[] = {"t.json", "t.bin", "t.model"};
  for (std::size_t kind = 0; kind < 3; ++kind) {
    const std::size_t step = 1 + files[kind].size() / 150;
    for (std::size_t at = 0; at < files[kind].size(); at += step) {
      std::string damaged = files[kind];
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
      try {
        const auto tokenizer = load_tokenizer(folder.write(names[kind], damaged));
        const auto ids = tokenizer->encode("abba \xFF c");
        (void)tokenizer->decode(ids);
      } catch (const UserError&) {
      }
    }
  }
}

}  // namespace
}  // namespace thimble
