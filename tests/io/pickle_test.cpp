#include "core/io/pickle.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/io/pickle_writer.h"

namespace thimble {
namespace {

using namespace std::string_literals;

PickleValue parse(const std::string& text) {
  return PickleValue::parse(text, "p");
}

std::string refusal(const std::string& text) {
  try {
    parse(text);
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}

void expect_refused(const std::string& text, const std::string& why) {
  EXPECT_NE(refusal(text).find(why), std::string::npos) << refusal(text);
}

TEST(Pickle, PlainValues) {
  PickleWriter out;
  out.begin_dict();
  out.text("none");
  out.none();
  out.text("yes");
  out.boolean(true);
  out.text("large");
  out.integer(std::int64_t{1} << 40);
  out.text("negative");
  out.integer(-3);
  out.text("real");
  out.number(0.1);
  out.text("sizes");
  out.integers(std::vector<std::int64_t>{2, 3});
  out.text("list");
  out.begin_list();
  out.text("x");
  out.end_list();
  out.end_dict();
  const PickleValue root = parse(out.finish());
  EXPECT_TRUE(root.find("none")->is_none());
  EXPECT_EQ(root.find("yes")->integer("it"), 1);
  EXPECT_EQ(root.find("large")->integer("it"), std::int64_t{1} << 40);
  EXPECT_EQ(root.find("negative")->integer("it"), -3);
  EXPECT_EQ(root.find("real")->number("it"), 0.1);
  EXPECT_EQ(root.find("sizes")->item(1).integer("it"), 3);
  EXPECT_EQ(root.find("list")->item(0).text("it"), "x");
  EXPECT_FALSE(root.find("other"));
  EXPECT_EQ(root.entries().size(), 7u);
  EXPECT_THROW(root.find("list")->integer("it"), UserError);
  EXPECT_THROW(root.find("negative")->text("it"), UserError);
  EXPECT_THROW(root.find("none")->number("it"), UserError);
}

TEST(Pickle, IntegersOfAnyLength) {
  EXPECT_EQ(parse("\x80\x02\x8a\x01\xff."s).integer("it"), -1);
  EXPECT_EQ(parse("\x80\x02\x8a\x02\xff\x00."s).integer("it"), 255);
  EXPECT_EQ(parse("\x80\x02\x8a\x00."s).integer("it"), 0);
  EXPECT_EQ(parse("\x80\x02\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80."s).integer("it"), INT64_MIN);
  EXPECT_TRUE(parse("\x80\x02\x8a\x09" + std::string(9, 'x') + ".").is(PickleKind::kBytes));
}

TEST(Pickle, CallsAreKeptNotMade) {
  const PickleValue root = parse(
      "\x80\x02"
      "ccollections\nOrderedDict\n)R(X\x01\0\0\0aK\x07u."s);
  EXPECT_EQ(root.global(), "collections OrderedDict");
  EXPECT_EQ(root.find("a")->integer("it"), 7);
  EXPECT_EQ(root.describe(), "an object of collections OrderedDict");
  const PickleValue built = parse(
      "\x80\x02"
      "ctorch\nX\n)\x81}b."s);
  ASSERT_TRUE(built.state());
  EXPECT_TRUE(built.state()->is(PickleKind::kDict));
}

TEST(Pickle, MaliciousNamesAreRefused) {
  expect_refused(
      "\x80\x02"
      "cos\nsystem\nX\x02\0\0\0id\x85R."s,
      "os.system");
  expect_refused(
      "\x80\x02"
      "cposix\nsystem\nX\x02\0\0\0id\x85R."s,
      "posix.system");
  expect_refused(
      "\x80\x02"
      "cbuiltins\neval\nX\x01\0\0\0"
      "1\x85R."s,
      "builtins.eval");
  expect_refused(
      "\x80\x02"
      "c__builtin__\nexec\n."s,
      "__builtin__.exec");
  expect_refused(
      "\x80\x02"
      "csubprocess\nPopen\n."s,
      "subprocess.Popen");
  expect_refused(
      "\x80\x02"
      "ctorchx\nload\n."s,
      "torchx.load");
  expect_refused("\x80\x04\x8c\x02os\x8c\x06system\x93."s, "os.system");
  // The name is printed safely.
  expect_refused(
      "\x80\x02"
      "co\x1b[2Js\nsystem\n."s,
      "o\\x1b[2Js");
}

TEST(Pickle, DamageIsRefused) {
  expect_refused(""s, "ends too early");
  expect_refused("\x80\x06N."s, "protocol");
  expect_refused("(lp0\n."s, "protocol");
  expect_refused("\x80\x02."s, "stack is empty");
  expect_refused("\x80\x02N"s, "ends too early");
  expect_refused(
      "\x80\x02X\xff\xff\xff\xff"
      "a."s,
      "ends too early");
  expect_refused(
      "\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff"
      "a."s,
      "too long");
  expect_refused("\x80\x02h\x05."s, "not remembered");
  expect_refused("\x80\x02Nr\xff\xff\xff\xff."s, "memo number");
  expect_refused("\x80\x02t."s, "mark");
  expect_refused("\x80\x02}(Nu."s, "no value");
  expect_refused("\x80\x02NNa."s, "holds nothing");
  expect_refused("\x80\x02NNR."s, "no name");
  expect_refused("\x80\x02NNb."s, "no object");
  expect_refused("\x80\x02I1\n."s, "0x49");
  expect_refused(
      "\x80\x02"
      "ctorch"s +
          std::string(1000, 'x'),
      "does not end");
}

TEST(Pickle, EveryTruncationIsRefused) {
  const std::string whole =
      "\x80\x02"
      "ccollections\nOrderedDict\n)Rq\x01(X\x01\0\0\0aK\x07h\x01Nu."s;
  ASSERT_EQ(refusal(whole), "");
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes)
    EXPECT_NE(refusal(whole.substr(0, bytes)), "") << bytes;
}

TEST(Pickle, ValuesAreBounded) {
  // A stack that only grows, and values without end.
  expect_refused("\x80\x02" + std::string(kMaxPickleNodes + 2, 'N') + ".", "values");
  expect_refused("\x80\x02N" + std::string(kMaxPickleNodes + 2, '2') + ".", "stack");
  expect_refused("\x80\x02" + std::string(kMaxPickleNodes + 2, '(') + ".", "stack");
  // A list that holds itself is read; nobody follows it for ever.
  const PickleValue loop = parse(
      "\x80\x02]q\x00h\x00"
      "a."s);
  EXPECT_EQ(loop.item(0).index(), loop.index());
}

}  // namespace
}  // namespace thimble
