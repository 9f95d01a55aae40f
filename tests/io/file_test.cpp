#include "core/io/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "core/base/error.h"
#include "core/io/crc32c.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

using testing::random_bytes;
using testing::read_bytes;
using testing::TempDir;
using testing::write_bytes;

TEST(Crc32c, KnownValueAndConcatenation) {
  const std::string_view digits = "123456789";
  const auto bytes = std::as_bytes(std::span(digits));
  EXPECT_EQ(crc32c(bytes), 0xE3069283u);
  EXPECT_EQ(crc32c({}), 0u);
  for (std::size_t cut = 0; cut <= digits.size(); ++cut) {
    EXPECT_EQ(crc32c(bytes.subspan(cut), crc32c(bytes.first(cut))), 0xE3069283u) << cut;
  }
}

TEST(File, WritesAndReadsAtOffsets) {
  const TempDir dir;
  const auto data = random_bytes(100'003, 1);
  const File file = File::create(dir / "a");
  file.write_at(7, data);
  EXPECT_EQ(file.size(), 100'010);
  std::vector<std::byte> back(data.size());
  const File again = File::open_read(dir / "a");
  again.will_read_sequentially();
  again.prefetch(0, 4096);
  again.read_at(7, back);
  EXPECT_EQ(back, data);
  again.read_at(100'010, {});
  again.drop_cache(0, 4096);
  File::open_read_write(dir / "a").write_at(0, std::span(data).first(1));
  file.data_sync();
}

TEST(File, ReservingDoesNotChangeContents) {
  const TempDir dir;
  const File file = File::create(dir / "a");
  file.reserve(0);
  file.reserve(10'000);
  EXPECT_EQ(file.size(), 10'000);
}

TEST(File, ErrorsNameThePath) {
  const TempDir dir;
  EXPECT_THROWS_WITH(UserError, "none: No such file", File::open_read(dir / "none"));
  EXPECT_THROWS_WITH(UserError, "it is a directory", File::open_read(dir.path()));
  ::mkfifo((dir / "fifo").c_str(), 0600);
  EXPECT_THROWS_WITH(UserError, "not a regular file", File::open_read(dir / "fifo"));
  write_bytes(dir / "short", "abc");
  const File file = File::open_read(dir / "short");
  std::vector<std::byte> buffer(5);
  EXPECT_THROWS_WITH(SystemError, "the file ends at byte 3, 3 more bytes", file.read_at(1, buffer));
  EXPECT_THROWS_WITH(SystemError, "pwrite", file.write_at(0, buffer));
  EXPECT_THROWS_WITH(UserError, "has 3 bytes, at most 2", read_text_file(dir / "short", 2));
  EXPECT_EQ(read_text_file(dir / "short", 3), "abc");
}

TEST(MappedFile, ShowsTheBytesAndAcceptsAnEmptyFile) {
  const TempDir dir;
  write_bytes(dir / "a", "hello");
  write_bytes(dir / "empty", "");
  MappedFile mapped(dir / "a");
  EXPECT_EQ(mapped.text(), "hello");
  MappedFile moved = std::move(mapped);
  EXPECT_EQ(moved.text(), "hello");
  EXPECT_TRUE(mapped.bytes().empty());
  EXPECT_EQ(MappedFile(dir / "empty").text(), "");
}

TEST(MappedFile, LostBytesAreNotedOrEndTheProcessWithALine) {
  const TempDir dir;
  const std::string text(3 * 65536 + 5, 'x');
  write_bytes(dir / "noted", text);
  MappedFile mapped(dir / "noted", MappedFile::OnLoss::kNote);
  const MappedFile::Stamp before = mapped.stamp();
  EXPECT_FALSE(mapped.lost());
  EXPECT_TRUE(mapped.stamp() == before);
  std::filesystem::resize_file(dir / "noted", 65536);
  EXPECT_FALSE(mapped.stamp() == before);
  EXPECT_EQ(mapped.text()[100], 'x');
  EXPECT_FALSE(mapped.lost());
  EXPECT_EQ(mapped.text()[2 * 65536], '\0');
  EXPECT_TRUE(mapped.lost());
  const MappedFile moved = std::move(mapped);
  EXPECT_TRUE(moved.lost());
  EXPECT_FALSE(mapped.lost());
  write_bytes(dir / "ends", text);
  EXPECT_EXIT(
      {
        const MappedFile file(dir / "ends");
        std::filesystem::resize_file(dir / "ends", 0);
        std::_Exit(file.text()[65536] == 'x' ? 3 : 4);
      },
      ::testing::ExitedWithCode(1), "ends: the file was cut");
  // Any other bus error ends the process as ever.
  EXPECT_EXIT({ ::raise(SIGBUS); }, ::testing::KilledBySignal(SIGBUS), "");
}

TEST(WriteFileAtomic, ReplacesAndLeavesNothingBehind) {
  const TempDir dir;
  write_file_atomic(dir / "a", "one");
  write_file_atomic(dir / "a", "two");
  EXPECT_EQ(read_bytes(dir / "a"), "two");
  std::filesystem::create_directories(dir / "d/full");
  EXPECT_THROWS_WITH(SystemError, "rename", write_file_atomic(dir / "d", "x"));
  EXPECT_FALSE(std::filesystem::exists(dir / "d.tmp"));
}

TEST(PlainFileName, RefusesEverythingThatLeavesTheDirectory) {
  for (const std::string_view bad : {"", ".", "..", "../a", "/a", "a/b", "a/"}) {
    EXPECT_FALSE(is_plain_file_name(bad)) << bad;
  }
  EXPECT_FALSE(is_plain_file_name(std::string_view("a\0b", 3)));
  EXPECT_TRUE(is_plain_file_name("..a"));
}

TEST(LockFile, SecondHolderIsToldWhoHoldsIt) {
  const TempDir dir;
  {
    const LockFile held(dir / "lock");
    EXPECT_THROWS_WITH(UserError, "in use by process " + std::to_string(::getpid()),
                       LockFile(dir / "lock"));
  }
  const LockFile again(dir / "lock");
}

TEST(LockFile, IsReleasedByTheDeathOfItsHolder) {
  const TempDir dir;
  const pid_t child = ::fork();
  if (child == 0) {
    const LockFile held(dir / "lock");
    ::raise(SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_NO_THROW(LockFile(dir / "lock"));
}

}  // namespace
}  // namespace thimble
