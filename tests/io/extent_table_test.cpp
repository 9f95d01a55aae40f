#include "core/io/extent_table.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

using testing::TempDir;
using testing::write_bytes;

TEST(ExtentTable, SurvivesTheFile) {
  const TempDir dir;
  ExtentTable table;
  table.save(dir / "t.json");
  EXPECT_TRUE(ExtentTable::load(dir / "t.json") == table);
  table.add("a.weight/master", {"data-0.h5", 4096, 12});
  table.add("empty", {"data-0.h5", 0, 0});
  table.save(dir / "t.json");
  EXPECT_TRUE(ExtentTable::load(dir / "t.json") == table);
  EXPECT_EQ(table.find("a.weight/master")->offset, 4096);
  EXPECT_EQ(table.find("b"), nullptr);
  EXPECT_THROW(table.add("empty", {"x", 0, 0}), LogicError);
  EXPECT_THROW(table.add("bad", {"../x", 0, 0}), LogicError);
}

TEST(ExtentTable, RefusesMalformedFiles) {
  const TempDir dir;
  const auto load = [&](std::string_view text) {
    write_bytes(dir / "t.json", text);
    return testing::message_of<UserError>([&] { ExtentTable::load(dir / "t.json"); });
  };
  const auto expect = [&](std::string_view text, std::string_view message) {
    EXPECT_NE(load(text).find(message), std::string::npos) << load(text);
  };
  expect("", "malformed JSON");
  expect(std::string_view("{}\0", 3), "malformed JSON near byte 2 (NUL)");
  expect("[1]", "an object from names to extents");
  expect("{\"a\":{},\"a\":{}}", "duplicate key 'a'");
  expect("{\"a\":1}", "extent 'a': an object is expected");
  expect("{\"a\":{\"offset\":0,\"bytes\":0}}", "'file' is missing");
  expect(R"({"a":{"file":"x","offset":-1,"bytes":0}})", "'offset' is -1");
  expect(R"({"a":{"file":"x","offset":0,"bytes":1.5}})", "'bytes' is 1.5");
  expect(R"({"a":{"file":"../x","offset":0,"bytes":1}})", "same directory");
  expect(R"({"a":{"file":"x","offset":9223372036854775807,"bytes":1}})", "same directory");
  expect(std::string(100, '[') + std::string(100, ']'), "deeper than 64");
}

}  // namespace
}  // namespace thimble
