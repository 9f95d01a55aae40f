#include "core/io/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/base/error.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

using testing::random_bytes;
using testing::TempDir;
using testing::write_bytes;

std::string with_length(std::uint64_t length, std::string_view rest) {
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file.append(rest);
}

/// A file with the given header and `data_bytes` zero bytes behind it.
std::string make_file(std::string_view header, std::size_t data_bytes) {
  return with_length(header.size(), std::string(header) + std::string(data_bytes, '\0'));
}

/// The message for a file with these contents.
std::string refusal(std::string_view contents) {
  const TempDir dir;
  write_bytes(dir / "m.safetensors", contents);
  const std::string message =
      testing::message_of<UserError>([&] { SafetensorsFile::open(dir / "m.safetensors"); });
  EXPECT_NE(message.find("m.safetensors"), std::string::npos) << message;
  return message;
}

void expect_refused(std::string_view contents, std::string_view text) {
  const std::string message = refusal(contents);
  EXPECT_NE(message.find(text), std::string::npos)
      << "expected: " << text << "\nmessage: " << message;
}

TEST(Safetensors, RoundTripInSlices) {
  const TempDir dir;
  const std::vector<SafetensorsSpec> specs = {{"w", DType::kBF16, {3, 5}},
                                              {"empty", DType::kF32, {0, 7}},
                                              {"scalar", DType::kF32, {}},
                                              {"half \"quoted\" é", DType::kF16, {1}},
                                              {"bytes", DType::kU8, {100'001}}};
  std::vector<std::vector<std::byte>> data;
  {
    SafetensorsWriter writer(dir / "m.safetensors", specs, {{"format", "pt"}});
    for (const SafetensorsSpec& spec : specs) {
      data.push_back(random_bytes(static_cast<std::size_t>(spec.bytes()), 9));
      const std::span<const std::byte> all = data.back();
      const std::size_t cut = all.size() / 3;
      writer.write(spec.name, all.first(cut));
      writer.write(spec.name, all.subspan(cut));
    }
    EXPECT_FALSE(std::filesystem::exists(dir / "m.safetensors"));
    writer.finish();
  }
  const auto file = SafetensorsFile::open(dir / "m.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  ASSERT_EQ(file.entries().size(), specs.size());
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const SafetensorsEntry* entry = file.find(specs[i].name);
    ASSERT_NE(entry, nullptr) << specs[i].name;
    EXPECT_EQ(entry->shape, specs[i].shape);
    EXPECT_EQ(entry->dtype, specs[i].dtype);
    std::vector<std::byte> back(static_cast<std::size_t>(entry->bytes));
    file.read(*entry, 0, back);
    EXPECT_EQ(back, data[i]);
  }
  const SafetensorsEntry& bytes = *file.find("bytes");
  std::vector<std::byte> middle(11);
  file.read(bytes, 500, middle);
  EXPECT_TRUE(std::equal(middle.begin(), middle.end(), data[4].begin() + 500));
  EXPECT_THROW(file.read(bytes, bytes.bytes - 10, middle), LogicError);
  EXPECT_EQ(file.find("nothing"), nullptr);
}

TEST(Safetensors, WriterRefusesDisorderAndRemovesItsFile) {
  const TempDir dir;
  const std::vector<std::byte> four(4);
  {
    SafetensorsWriter writer(dir / "m", {{"a", DType::kF32, {1}}, {"b", DType::kF32, {1}}}, {});
    EXPECT_THROW(writer.write("b", four), LogicError);
    writer.write("a", four);
    EXPECT_THROW(writer.finish(), LogicError);
    EXPECT_THROW(writer.write("b", std::vector<std::byte>(5)), LogicError);
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  EXPECT_THROW(SafetensorsWriter(dir / "m", {{"a", DType::kF32, {}}, {"a", DType::kF32, {}}}, {}),
               LogicError);
}

TEST(Safetensors, KnownButUnsupportedTypesCanBeSkipped) {
  const TempDir dir;
  write_bytes(dir / "m",
              make_file(R"({"a":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}})", 16));
  const auto file = SafetensorsFile::open(dir / "m");
  EXPECT_FALSE(file.find("a")->dtype.has_value());
  EXPECT_EQ(file.find("a")->dtype_text, "F64");
}

TEST(Safetensors, AcceptsPaddedAndEmptyHeaders) {
  const TempDir dir;
  write_bytes(dir / "m", make_file("{}     ", 0));
  EXPECT_TRUE(SafetensorsFile::open(dir / "m").entries().empty());
}

TEST(SafetensorsHostile, BadHeaderLength) {
  expect_refused("", "has 0 bytes; a safetensors file begins with an 8-byte header length");
  expect_refused("abcde", "has 5 bytes");
  expect_refused(with_length(3, "{}"), "header length is 3 bytes, but only 2 follow it");
  expect_refused(with_length(0, ""), "must begin with '{'");
  expect_refused(with_length(~std::uint64_t{0}, "{}"), "at most 100000000 are allowed");
}

TEST(SafetensorsHostile, HeaderOfMoreThanOneHundredMegabytes) {
  const TempDir dir;
  write_bytes(dir / "m", with_length(100'000'001, "{"));
  std::filesystem::resize_file(dir / "m", 200'000'000);
  EXPECT_THROWS_WITH(UserError, "header length is 100000001 bytes; at most 100000000",
                     SafetensorsFile::open(dir / "m"));
}

TEST(SafetensorsHostile, LargestAllowedHeaderOfGarbage) {
  const std::string brackets = "{\"a\":" + std::string(20'000'000, '[');
  EXPECT_THROWS_WITH(UserError, "an object is expected",
                     parse_safetensors_header(brackets, 1 << 30, "m"));
}

TEST(SafetensorsHostile, MalformedJson) {
  expect_refused(make_file("[]", 0), "must begin with '{'");
  expect_refused(make_file("{", 0), "not valid JSON at byte");
  expect_refused(make_file("{}x", 0), "not valid JSON at byte");
  expect_refused(make_file("{\"\xff\":1}", 0), "not valid JSON at byte");
  expect_refused(make_file(std::string("{}\0", 3), 0), "not valid JSON at byte");
  expect_refused(make_file(R"({"a":1})", 0), "tensor 'a': its description is 1; an object");
  expect_refused(make_file(R"({"a":{"x":1}})", 0), "unknown field 'x'");
  expect_refused(make_file(R"({"a":{"dtype":{}}})", 0), "dtype holds an object");
  expect_refused(make_file(R"({"a":{"dtype":["F32"]}})", 0), "dtype holds an array");
  expect_refused(make_file(R"({"a":{"shape":"F32"}})", 0), "shape holds text 'F32'");
  expect_refused(make_file(R"({"a":{"shape":[[1]]}})", 0), "shape holds an array");
  expect_refused(make_file(R"({"a":{"shape":[null]}})", 0), "shape holds null");
  expect_refused(make_file(R"({"a":{"shape":true}})", 0), "shape holds a boolean");
  expect_refused(make_file(R"({"a":{"shape":[1.5]}})", 0), "shape holds 1.5");
  expect_refused(make_file(R"({"a":{"shape":[-1]}})", 0), "shape holds -1; non-negative");
  expect_refused(make_file(R"({"a":{"shape":[99999999999999999999]}})", 0), "shape holds 9999");
  expect_refused(make_file(R"({"a":{"shape":[9223372036854775808]}})", 0), "too large");
  expect_refused(make_file(R"({"a":{"dtype":"F32","shape":[]}})", 0), "needs each of");
  expect_refused(make_file(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0]}})", 0),
                 "data_offsets [0] is not a range");
  expect_refused(make_file(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[4,0]}})", 4),
                 "data_offsets [4, 0] is not a range");
  expect_refused(make_file(R"({"__metadata__":{"a":1}})", 0), "the value of 'a' is 1; text");
  expect_refused(make_file(R"({"__metadata__":{"a":{}}})", 0), "an object; text is expected");
  expect_refused(make_file(R"({"__metadata__":7})", 0), "its description is 7");
}

TEST(SafetensorsHostile, RankBeyondTheLimit) {
  std::string header = R"({"a":{"dtype":"F32","shape":[1)";
  for (int i = 0; i < 32; ++i) header += ",1";
  expect_refused(make_file(header + R"(],"data_offsets":[0,4]}})", 4), "more than 32 numbers");
}

TEST(SafetensorsHostile, WrongDType) {
  expect_refused(make_file(R"({"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", 4),
                 "tensor 'a': dtype 'F31' is unknown; known are F32, BF16");
}

TEST(SafetensorsHostile, DuplicateKeys) {
  const std::string a = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  const std::string b = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]})";
  expect_refused(make_file("{" + a + "," + b + "}", 2), "duplicate key 'a'");
  expect_refused(make_file(R"({"a":{"dtype":"U8","dtype":"U8"}})", 0), "duplicate key 'dtype'");
  expect_refused(make_file(R"({"__metadata__":{"x":"1","x":"2"}})", 0), "duplicate key 'x'");
  expect_refused(make_file(R"({"__metadata__":{},"__metadata__":{}})", 0),
                 "duplicate key '__metadata__'");
}

TEST(SafetensorsHostile, SizeAgainstShape) {
  expect_refused(make_file(R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]}})", 20),
                 "dtype F32 and shape [2, 3] need 24 bytes, data_offsets hold 20");
  expect_refused(make_file(R"({"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}})", 1),
                 "need 1 bytes");
  expect_refused(
      make_file(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
      "overflows 64 bits");
}

TEST(SafetensorsHostile, OverlapHoleAndTruncation) {
  const auto pair = [](int b0, int b1) {
    return fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},)"
                       R"("b":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}})",
                       b1 - b0, b0, b1);
  };
  expect_refused(make_file(pair(3, 8), 8), "tensor 'b' overlaps the one before it");
  expect_refused(make_file(pair(5, 8), 8), "a hole of 1 bytes before tensor 'b'");
  expect_refused(make_file(pair(4, 8), 7),
                 "tensor 'b' ends at data byte 8, but the file holds only 7");
  expect_refused(make_file(pair(4, 8), 9), "1 bytes after the last tensor belong to none");
  expect_refused(
      make_file(
          R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[9223372036854775803,9223372036854775807]}})",
          4),
      "it is truncated");
}

TEST(SafetensorsHostile, EveryTruncationIsRefused) {
  const std::string whole =
      make_file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_NE(refusal(whole.substr(0, size)), "(nothing was thrown)") << size;
  }
}

TEST(SafetensorsHostile, EverySingleByteChangeIsReadOrRefused) {
  const std::string whole =
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const auto file_bytes = static_cast<std::int64_t>(8 + whole.size() + 8);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = whole;
      changed[i] = static_cast<char>(value);
      try {
        parse_safetensors_header(changed, file_bytes, "m");
      } catch (const UserError&) {
      }
    }
  }
}

}  // namespace
}  // namespace thimble
