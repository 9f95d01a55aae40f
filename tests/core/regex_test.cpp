// Patterns of files and jobs, harmless and hostile.
#include "core/base/regex.h"

#include <gtest/gtest.h>

#include <string>

#include "core/base/error.h"

namespace thimble {
namespace {

std::string repeat(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

Regex bytes(const std::string& pattern) {
  return {pattern, Regex::Kind::kBytes, "job.toml: match"};
}

std::string error_of(const std::string& pattern, const std::string& text) {
  try {
    (void)bytes(pattern).matches_whole(text);
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Regex, WholeNames) {
  EXPECT_TRUE(bytes(R"(model\.layers\.\d+\..*weight)").matches_whole("model.layers.12.mlp.weight"));
  EXPECT_FALSE(bytes("layers").matches_whole("model.layers.0"));
  EXPECT_TRUE(bytes("a|ab|abc").matches_whole("abc"));
  EXPECT_TRUE(bytes("a*").matches_whole(""));
  EXPECT_FALSE(bytes("a").matches_whole(""));
  EXPECT_TRUE(bytes(".").matches_whole("\xFF"));
}

TEST(Regex, FindsFromAPlaceOn) {
  const Regex regex = bytes("(?<=a)b|c*");
  const auto first = regex.find("abcc", 1);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->begin, 1u);
  EXPECT_EQ(first->end, 2u);
  const auto empty = regex.find("abcc", 4);
  ASSERT_TRUE(empty.has_value());
  EXPECT_EQ(empty->begin, empty->end);
  EXPECT_FALSE(bytes("x").find("", 0).has_value());
  const Regex literal("a.b", Regex::Kind::kLiteral, "t.json");
  EXPECT_FALSE(literal.find("acb", 0).has_value());
  EXPECT_TRUE(literal.find("xa.b", 0).has_value());
}

TEST(Regex, MistakesNameThePattern) {
  EXPECT_NE(error_of("(", "").find("job.toml: match: pattern '(' does not compile at byte 1"),
            std::string::npos);
  EXPECT_NE(error_of("", "").find("a pattern has 1 to"), std::string::npos);
  EXPECT_NE(error_of(std::string((1 << 20) + 1, 'a'), "").find("1048577"), std::string::npos);
}

TEST(Regex, HostilePatternsEndWithAnError) {
  for (const std::string& pattern :
       {repeat("(", 50'000), repeat("(", 50'000) + "a" + repeat(")", 50'000),
        repeat("(?:a", 10'000) + repeat(")*", 10'000),
        std::string("((a{1,60000}){1,60000}){1,60000}")}) {
    EXPECT_NE(error_of(pattern, "model.norm.weight").find("does not compile"), std::string::npos)
        << pattern.substr(0, 40);
  }
  EXPECT_NE(error_of("(a+)+b|(a|aa)+c", std::string(5000, 'a')).find("gives up"),
            std::string::npos);
}

TEST(Regex, LongTextsDoNotEndTheProcess) {
  const std::string digits(1 << 20, '7');
  EXPECT_FALSE(bytes(R"(process rank \d+ with)").find("process rank " + digits, 0).has_value());
  EXPECT_TRUE(bytes("(?:.)*").matches_whole(std::string(100'000, 'a')));
}

}  // namespace
}  // namespace thimble
