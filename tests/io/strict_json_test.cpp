// What the strict reader of JSON refuses, and that its time is linear.
#include "core/io/strict_json.h"

#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "core/base/error.h"

namespace thimble {
namespace {

std::string error_of(const std::string& text) {
  try {
    parse_strict_json(text, "f.json");
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}

TEST(StrictJson, RefusesWithTheFilesName) {
  EXPECT_EQ(error_of(R"({"a":1,"b":{"a":2},"c":[{"a":1},{"a":1}]})"), "");
  EXPECT_EQ(error_of(R"({"a":1,"a":2})"), "f.json: duplicate key 'a'");
  EXPECT_EQ(error_of(R"({"x":{"a":1,"b":[],"a":2}})"), "f.json: duplicate key 'a'");
  EXPECT_EQ(error_of(""), "f.json: malformed JSON near byte 1");
  EXPECT_NE(error_of("{\"a\":1e999}").find("a number is too large"), std::string::npos);
  EXPECT_NE(error_of(std::string("{}\0", 3)).find("NUL"), std::string::npos);
  EXPECT_EQ(error_of(std::string(64, '[') + std::string(64, ']')), "");
  EXPECT_NE(error_of(std::string(65, '[') + std::string(65, ']')).find("nested"),
            std::string::npos);
}

// A child more costs the same, however many there are: the time of many is compared with that of
// half of them, because a slow machine is slow for both.
TEST(StrictJson, TimeIsLinearInChildrenAndKeys) {
  const auto seconds = [](int children) {
    std::string array = "[", object = "{";
    for (int i = 0; i < children; ++i) {
      array += i == 0 ? "[]" : ",[]";
      object += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":{}";
    }
    array += "]";
    object += "}";
    const auto start = std::chrono::steady_clock::now();
    parse_strict_json(array, "a");
    parse_strict_json(object, "o");
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  seconds(20000);
  // Quadratic in the children it was minutes, and sixteen times the smaller.
  EXPECT_LT(seconds(400000), 12 * seconds(100000) + 0.5);
}

}  // namespace
}  // namespace thimble
