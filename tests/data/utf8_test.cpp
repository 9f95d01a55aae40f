// UTF-8 validation against its definition.
#include "data/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace thimble {
namespace {

TEST(Utf8, AgreesWithTheDefinitionOnAllTwoAndThreeByteStrings) {
  const auto valid = [](const std::string& s) { return first_invalid_utf8(s) == s.size(); };
  for (int a = 0; a < 256; ++a) {
    EXPECT_EQ(valid({static_cast<char>(a)}), a < 0x80);
    for (int b = 0; b < 256; ++b) {
      const std::string two{static_cast<char>(a), static_cast<char>(b)};
      const bool pair = a >= 0xC2 && a <= 0xDF && b >= 0x80 && b <= 0xBF;
      ASSERT_EQ(valid(two), (a < 0x80 && b < 0x80) || pair) << a << " " << b;
      const int code = (a & 15) << 12 | (b & 63) << 6 | 1;
      const bool triple = a >= 0xE0 && a <= 0xEF && b >= 0x80 && b <= 0xBF && code >= 0x800 &&
                          (code < 0xD800 || code > 0xDFFF);
      ASSERT_EQ(valid(two + '\x81'), triple || (a < 0x80 && b >= 0xC2 && b <= 0xDF))
          << a << " " << b;
    }
  }
  EXPECT_TRUE(valid("\xF0\x90\x80\x80 \xF4\x8F\xBF\xBF and ascii"));
  EXPECT_EQ(first_invalid_utf8("abcdefgh\xF4\x90\x80\x80"), 8u);
  EXPECT_EQ(first_invalid_utf8("12345678\xE2\x82"), 8u);
}

}  // namespace
}  // namespace thimble
