#include "core/io/zip_archive.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/base/error.h"
#include "core/io/zip_layout.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

class ZipTest : public ::testing::Test {
 protected:
  ZipArchive open(const std::string& bytes, std::int64_t before = 0) {
    const auto path = directory_ / "archive";
    testing::write_bytes(path, bytes);
    auto file = std::make_shared<const File>(File::open_read(path));
    return ZipArchive::open(file, {before, file->size() - before}, "archive");
  }
  // An archive of two entries, as bytes.
  std::string sample(std::int64_t before = 0) {
    const auto path = directory_ / "sample";
    testing::write_bytes(path, std::string(static_cast<std::size_t>(before), 'x'));
    File file = File::open_read_write(path);
    ZipWriter writer(file, before);
    writer.add("a/data.pkl", "hello");
    writer.begin("a/data/0", 8);
    writer.write(std::as_bytes(std::span(std::string_view("abc"))));
    writer.write(std::as_bytes(std::span(std::string_view("defgh"))));
    writer.add("a/empty", "");
    writer.finish();
    return testing::read_bytes(path);
  }
  std::string refusal(const std::string& bytes) {
    try {
      open(bytes);
    } catch (const UserError& e) {
      return e.what();
    }
    return "";
  }
  void expect_refused(const std::string& bytes, const std::string& why) {
    EXPECT_NE(refusal(bytes).find(why), std::string::npos) << refusal(bytes);
  }

  testing::MemoryDir directory_;
};

// Changes bytes of the directory's record of entry `index`.
template <typename T>
std::string with_directory(std::string zip, int index, std::size_t at, T value) {
  std::size_t record = zip.find("PK\x01\x02");
  for (int i = 0; i < index; ++i) record = zip.find("PK\x01\x02", record + 1);
  std::memcpy(zip.data() + record + at, &value, sizeof(T));
  return zip;
}

TEST_F(ZipTest, WritesWhatItReads) {
  const ZipArchive zip = open(sample());
  ASSERT_EQ(zip.entries().size(), 3u);
  EXPECT_EQ(zip.read_text(*zip.find("a/data.pkl"), 100), "hello");
  EXPECT_EQ(zip.read_text(*zip.find("a/data/0"), 100), "abcdefgh");
  EXPECT_EQ(zip.find("a/data/0")->offset % 64, 0);
  EXPECT_EQ(zip.read_text(*zip.find("a/empty"), 100), "");
  EXPECT_EQ(zip.find("other"), nullptr);
  EXPECT_THROW(zip.read_text(*zip.find("a/data/0"), 7), UserError);
}

TEST_F(ZipTest, AnArchiveMayBeAPartOfAFile) {
  const ZipArchive zip = open(sample(100), 100);
  EXPECT_EQ(zip.read_text(*zip.find("a/data/0"), 100), "abcdefgh");
}

TEST_F(ZipTest, ChecksumOfGzip) {
  EXPECT_EQ(zip_crc32(std::as_bytes(std::span(std::string_view("123456789")))), 0xCBF43926u);
  const std::uint32_t first = zip_crc32(std::as_bytes(std::span(std::string_view("1234"))));
  EXPECT_EQ(zip_crc32(std::as_bytes(std::span(std::string_view("56789"))), first), 0xCBF43926u);
}

TEST_F(ZipTest, EveryTruncationIsRefused) {
  const std::string whole = sample();
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes)
    EXPECT_NE(refusal(whole.substr(0, bytes)), "") << bytes;
}

TEST_F(ZipTest, EveryFlippedByteIsHarmless) {
  const std::string whole = sample();
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ 0xFF);
    try {
      const ZipArchive zip = open(bytes);
      for (const ZipEntry& entry : zip.entries()) zip.read_text(entry, 1 << 20);
    } catch (const UserError&) {  // refused is as good as read
    }
  }
}

TEST_F(ZipTest, RefusesWhatCouldHarm) {
  const std::string whole = sample();
  expect_refused(with_directory(whole, 0, 10, std::uint16_t{8}), "compressed");
  expect_refused(with_directory(whole, 0, 8, std::uint16_t{1}), "encrypted");
  expect_refused(with_directory(whole, 0, 24, std::uint32_t{1u << 30}), "compressed");
  // Absurd sizes and places.
  std::string large = with_directory(whole, 1, 24, std::uint32_t{0xFFFFFFF0u});
  large = with_directory(large, 1, 20, std::uint32_t{0xFFFFFFF0u});
  expect_refused(large, "outside");
  expect_refused(with_directory(whole, 1, 42, std::uint32_t{0x7FFFFFFFu}), "outside");
  // Two entries in one place, and two of one name.
  std::string twice = with_directory(whole, 1, 42, std::uint32_t{0});
  expect_refused(twice, "another name");
  std::string traversal = whole;
  for (std::size_t at = traversal.find("a/empty"); at != traversal.npos;
       at = traversal.find("a/empty", at + 1))
    traversal.replace(at, 7, "../../x");
  expect_refused(traversal, "plain relative paths");
  std::string rooted = whole;
  for (std::size_t at = rooted.find("a/empty"); at != rooted.npos; at = rooted.find("a/empty"))
    rooted.replace(at, 7, "/etc/xx");
  expect_refused(rooted, "plain relative paths");
  // A count that the directory cannot hold.
  std::string counted = whole;
  const std::uint16_t many = 60000;
  std::memcpy(counted.data() + counted.size() - 22 + 10, &many, 2);
  expect_refused(counted, "cannot be in a directory");
  expect_refused(std::string(100, 'x'), "no zip file");
}

TEST_F(ZipTest, RefusesOverlap) {
  // The second entry's header claims the first one's bytes: one name, two records.
  const std::string whole = sample();
  const std::size_t first = whole.find("PK\x01\x02");
  const std::size_t second = whole.find("PK\x01\x02", first + 1);
  std::string doubled = whole.substr(0, second) + whole.substr(first);
  const std::size_t end = doubled.size() - 22;
  const std::uint16_t count = 4;
  const auto bytes = static_cast<std::uint32_t>(end - first);
  std::memcpy(doubled.data() + end + 10, &count, 2);
  std::memcpy(doubled.data() + end + 12, &bytes, 4);
  expect_refused(doubled, "overlap");
}

TEST_F(ZipTest, FlippedContentsAreNoticed) {
  std::string bytes = sample();
  bytes[bytes.find("hello")] = 'j';
  const ZipArchive zip = open(bytes);
  EXPECT_THROW(zip.read_text(*zip.find("a/data.pkl"), 100), UserError);
}

}  // namespace
}  // namespace thimble
