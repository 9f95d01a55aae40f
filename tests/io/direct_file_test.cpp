#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/base/error.h"
#include "core/io/file.h"
#include "core/io/file_system.h"
#include "tests/io/aligned_bytes.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using testing::AlignedBytes;
using testing::MemoryDir;
using testing::same_bytes;
using testing::TempDir;
using testing::write_bytes;

TEST(FileSystemOf, NamesMemoryAndWhatItDoesNotKnow) {
  const FileSystem memory = file_system_of("/dev/shm");
  EXPECT_EQ(memory.name, "tmpfs");
  EXPECT_TRUE(memory.in_memory);
  EXPECT_FALSE(memory.on_network);
  EXPECT_GT(memory.free_bytes, 0);
  const FileSystem unknown = file_system_of("/proc");
  EXPECT_EQ(unknown.name, "type 0x9fa0");
  EXPECT_FALSE(unknown.in_memory || unknown.on_network);
}

TEST(FileSystemOf, AFileLiesWhereItsDirectoryDoes) {
  const TempDir dir;
  write_bytes(dir / "a", "abc");
  const FileSystem of_directory = file_system_of(dir.path());
  EXPECT_FALSE(of_directory.name.empty());
  EXPECT_GT(of_directory.free_bytes, 0);
  EXPECT_EQ(file_system_of(dir / "a").name, of_directory.name);
  const File file = File::open_read(dir / "a");
  EXPECT_EQ(file_system_of(file.descriptor(), file.path()).name, of_directory.name);
}

TEST(FileSystemOf, NothingThereIsTheUsersMistake) {
  EXPECT_THROWS_WITH(UserError, "/nowhere/at/all: No such file", file_system_of("/nowhere/at/all"));
}

TEST(OpenDirect, AlignmentIsAPowerOfTwoOrNone) {
  const TempDir dir;
  write_bytes(dir / "a", "abc");
  const std::int64_t alignment = File::open_direct(dir / "a").direct_alignment();
  EXPECT_GE(alignment, 0);
  EXPECT_EQ(alignment & (alignment - 1), 0);
  EXPECT_EQ(File::open_read(dir / "a").direct_alignment(), 0);
  EXPECT_EQ(File::open_read_write(dir / "a").direct_alignment(), 0);
}

TEST(OpenDirect, RoundTripOfWholeBlocks) {
  const TempDir dir;
  write_bytes(dir / "a", "");
  const File file = File::open_direct(dir / "a");
  const AlignedBytes data(5 * AlignedBytes::kAlignment, 1), back(5 * AlignedBytes::kAlignment);
  file.write_at(8192, data.all());
  EXPECT_EQ(file.size(), 7 * 4096);
  file.read_at(8192, back.all());
  EXPECT_TRUE(same_bytes(back.all(), data.all()));
  // What lies on the disk is also what the page cache reads.
  const File plain = File::open_read(dir / "a");
  AlignedBytes odd(4097);
  plain.read_at(8193, odd.all());
  EXPECT_TRUE(same_bytes(odd.all(), data.part(1, 4097)));
}

TEST(OpenDirect, EndOfAFileWithinABlock) {
  const TempDir dir;
  write_bytes(dir / "a", std::string(5000, 'x'));
  const File file = File::open_direct(dir / "a");
  const AlignedBytes back(8192);
  EXPECT_THROWS_WITH(SystemError, "the file ends at byte 5000, 3192 more bytes",
                     file.read_at(0, back.all()));
  EXPECT_THROWS_WITH(SystemError, "the file ends at byte 5000, 3192 more bytes",
                     file.read_at(4096, back.part(0, 4096)));
}

TEST(OpenDirect, MemoryHasNothingBehindThePageCache) {
  const MemoryDir dir;
  write_bytes(dir / "a", "");
  const File file = File::open_direct(dir / "a");
  EXPECT_EQ(file.direct_alignment(), 0);
  const AlignedBytes data(1001, 2), back(1001);
  file.write_at(3, data.part(1, 1000));
  file.read_at(3, back.part(1, 1000));
  EXPECT_TRUE(same_bytes(back.part(1, 1000), data.part(1, 1000)));
}

TEST(OpenDirect, RefusesWhatIsNoFile) {
  const TempDir dir;
  EXPECT_THROWS_WITH(UserError, "No such file", File::open_direct(dir / "a"));
  EXPECT_FALSE(fs::exists(dir / "a"));
  EXPECT_THROWS_WITH(UserError, "a directory", File::open_direct(dir.path()));
}

}  // namespace
}  // namespace thimble
