// Patterns of tokenizer files against the reference implementation: cuts of random texts, classes
// over all code points, and what is refused.
#include <cstdlib>

#include "data/tokenizer_reader.h"
#include "data/tokenizer_split.h"
#include "data/tokenizer_stages.h"
#include "data/tokenizer_text.h"
#include "tests/data/tokenizer_test_util.h"

namespace thimble {
namespace {

using nlohmann::json;

/// The committed sample, or the file that make_regex_fixtures.py made for a larger comparison.
const json& cases() {
  static const json all = [] {
    const char* other = std::getenv("THIMBLE_REGEX_CASES");
    return json::parse(read_bytes(other ? other : "tests/fixtures/tokenizers/regex.json"));
  }();
  return all;
}

struct Piece {
  std::size_t begin;
  std::size_t end;
};

std::vector<SplitStage> stages_of(const json& pre_tokenizer) {
  const JsonFile file(pre_tokenizer.dump(), "t.json");
  std::vector<SplitStage> stages;
  for (const SplitterStage& stage : read_pre_tokenizer(file.root()).stages) {
    stages.push_back(std::get<SplitStage>(stage));
  }
  return stages;
}

std::vector<Piece> pieces_of(const std::vector<SplitStage>& stages, const std::string& text) {
  std::vector<Piece> pieces;
  if (!text.empty()) pieces.push_back({0, text.size()});
  for (const SplitStage& stage : stages) {
    std::vector<Piece> smaller;
    for (const Piece& piece : pieces) {
      const auto view = std::string_view(text).substr(piece.begin, piece.end - piece.begin);
      for (const auto& range : split_ranges(stage, view)) {
        smaller.push_back({piece.begin + range.begin, piece.begin + range.end});
      }
    }
    pieces = std::move(smaller);
  }
  return pieces;
}

/// As the fixture writes them: where pieces begin, and -1 - offset where one ends before a gap.
std::vector<std::int64_t> cuts_of(const std::vector<Piece>& pieces, std::size_t size) {
  std::vector<std::int64_t> cuts;
  std::size_t end = 0;
  for (const Piece& piece : pieces) {
    if (piece.begin != end) cuts.push_back(-1 - static_cast<std::int64_t>(end));
    cuts.push_back(static_cast<std::int64_t>(piece.begin));
    end = piece.end;
  }
  if (end != size) cuts.push_back(-1 - static_cast<std::int64_t>(end));
  return cuts;
}

TEST(TokenizerRegex, CutsTextsAsTheReference) {
  const json& texts = cases()["texts"];
  ASSERT_GE(texts.size(), 40u);
  ASSERT_GE(cases()["splits"].size(), 100u);
  for (const json& item : cases()["splits"]) {
    const auto name = item["name"].get<std::string>();
    const auto stages = stages_of(item["pre_tokenizer"]);
    ASSERT_GE(item["cuts"].size(), 40u);
    int differing = 0;
    for (std::size_t i = 0; i < item["cuts"].size(); ++i) {
      const auto text = texts[i].get<std::string>();
      const std::vector<std::int64_t> expected = item["cuts"][i];
      const auto found = cuts_of(pieces_of(stages, text), text.size());
      if (found == expected || ++differing > 3) continue;
      EXPECT_EQ(found, expected) << name << ": " << texts[i].dump(-1, ' ', true);
    }
    EXPECT_EQ(differing, 0) << name << ": differs on so many texts of " << texts.size();
  }
}

TEST(TokenizerRegex, ReplacesAsTheReference) {
  const json& texts = cases()["texts"];
  for (const json& item : cases()["replaces"]) {
    const TokenRegex regex(item["pattern"].get<std::string>(), false, "t.json");
    for (std::size_t i = 0; i < item["texts"].size(); ++i) {
      EXPECT_EQ(
          replace_matches(regex, texts[i].get<std::string>(), item["content"].get<std::string>()),
          item["texts"][i].get<std::string>())
          << item["pattern"] << " on " << texts[i].dump();
    }
  }
}

std::uint64_t fnv(std::uint64_t value, std::int32_t number) {
  for (int shift = 0; shift < 32; shift += 8) {
    value = (value ^ (static_cast<std::uint32_t>(number) >> shift & 255)) * 0x100000001b3;
  }
  return value;
}

/// Counts code points, given in rising order, and hashes their runs as the fixture does.
class Members {
 public:
  void add(std::int32_t code) {
    ++count_;
    const bool follows = code == last_ + 1 || (last_ == 0xD7FF && code == 0xE000);
    if (!follows) {
      finish();
      first_ = code;
    }
    last_ = code;
  }
  void expect(const json& item, const std::string& name) {
    finish();
    EXPECT_EQ(count_, item["count"].get<std::int64_t>()) << name;
    EXPECT_EQ(std::to_string(digest_), item["digest"].get<std::string>()) << name;
  }

 private:
  void finish() {
    if (first_ >= 0) digest_ = fnv(fnv(digest_, first_), last_);
  }
  std::int64_t count_ = 0;
  std::uint64_t digest_ = 0xcbf29ce484222325;
  std::int32_t first_ = -1;
  std::int32_t last_ = -2;
};

bool is_character(std::int32_t code) {
  return code < 0xD800 || code > 0xDFFF;
}

/// The code points that a pattern for one character matches.
Members members_of(const std::string& pattern) {
  const TokenRegex regex(pattern, false, "t.json");
  Members members;
  for (std::int32_t start = 0; start < 0x110000; start += 0x10000) {
    std::string text;
    for (std::int32_t code = start; code < start + 0x10000; ++code) {
      if (is_character(code)) append_utf8(code, text);
    }
    TokenRegex::Search search;
    while (const auto match = regex.next(text, search)) {
      members.add(code_point(std::string_view(text).substr(match->begin)));
    }
  }
  return members;
}

TEST(TokenizerRegex, ClassesHoldTheSameCodePoints) {
  ASSERT_GE(cases()["classes"].size(), 80u);
  for (const json& item : cases()["classes"]) {
    const auto pattern = item["pattern"].get<std::string>();
    members_of(pattern).expect(item, pattern);
  }
}

TEST(TokenizerRegex, StagesCutOffTheSameCodePoints) {
  ASSERT_EQ(cases()["stages"].size(), 2u);
  for (const json& item : cases()["stages"]) {
    const auto stages = stages_of(item["pre_tokenizer"]);
    Members members;
    for (std::int32_t code = 0; code < 0x110000; ++code) {
      std::string text = "a";
      if (!is_character(code)) continue;
      append_utf8(code, text);
      if (pieces_of(stages, text + "b").size() == 3) members.add(code);
    }
    members.expect(item, item["pre_tokenizer"].dump());
  }
}

TEST(TokenizerRegex, WhatIsNotTranslatedIsRefusedByName) {
  for (const json& item : cases()["refused"]) {
    const auto pattern = item.get<std::string>();
    expect_user_error([&] { TokenRegex(pattern, false, "t.json: pattern"); },
                      {"t.json: pattern", "not supported"});
  }
}

TEST(TokenizerRegex, MistakesAreErrors) {
  for (const std::string pattern : {"",
                                    "(",
                                    ")",
                                    "[",
                                    "[]",
                                    "[^]",
                                    "*",
                                    "+a",
                                    "a|*",
                                    "(?",
                                    "(?<",
                                    "(?<n",
                                    "(?i",
                                    "\\",
                                    "\\p",
                                    "\\p{",
                                    "\\p{}",
                                    "\\p{Nothing}",
                                    "\\x{110000}",
                                    "\\x{D800}",
                                    "\\x{",
                                    "\\u12",
                                    "[a",
                                    "[b-a]",
                                    "[\\w-z]",
                                    "[a-\\d]",
                                    "[a&&]",
                                    "[&&a]",
                                    "[[:nothing:]]",
                                    "a{70000}",
                                    "^*",
                                    "(?=a)*",
                                    "\xFF(",
                                    "[\xC3]",
                                    "(?#",
                                    "(?Q)",
                                    "\\xE4"}) {
    expect_user_error([&] { TokenRegex(pattern, false, "t.json"); }, {"t.json"});
  }
}

TEST(TokenizerRegex, HostilePatternsAreErrors) {
  const auto repeat = [](const std::string& text, int times) {
    std::string all;
    for (int i = 0; i < times; ++i) all += text;
    return all;
  };
  for (const std::string& pattern : std::vector<std::string>{
           repeat("(", 50'000), repeat("(", 30'000) + "a" + repeat(")", 30'000),
           repeat("[", 50'000), repeat("(?:a", 10'000) + repeat(")*", 10'000),
           repeat("(?i)", 15'000), "(((a{1,60000}){1,60000}){1,60000})", repeat("\\w", 30'000)}) {
    expect_user_error([&] { TokenRegex(pattern, false, "t.json"); }, {"t.json"});
  }
  // Catastrophic backtracking ends with an error that names the pattern.
  const TokenRegex slow("(?:a+)+b|(?:a|aa)+c", false, "slow.json");
  TokenRegex::Search search;
  expect_user_error([&] { slow.next(std::string(5000, 'a'), search); }, {"slow.json", "gives up"});
}

TEST(TokenizerRegex, DeepMatchesOfLongTextsAreFound) {
  const TokenRegex regex("(?:a|b)*c", false, "t.json");
  TokenRegex::Search search;
  const std::string text = std::string(1 << 17, 'a') + "c";
  const auto match = regex.next(text, search);
  ASSERT_TRUE(match.has_value());
  EXPECT_EQ(match->end, text.size());
}

}  // namespace
}  // namespace thimble
