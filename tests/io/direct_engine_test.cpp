// The file engines with direct files, with registered memory, and with transfers that the kernel
// cuts short.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>
#include <tuple>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/file_engine.h"
#include "core/io/io_queue.h"
#include "tests/io/aligned_bytes.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

using testing::AlignedBytes;
using testing::same_bytes;
using testing::TempDir;
using testing::write_bytes;

constexpr std::size_t kPage = AlignedBytes::kAlignment;

File new_direct_file(const std::filesystem::path& path) {
  write_bytes(path, "");
  return File::open_direct(path);
}

/// Engine, and whether its memory is registered.
class DirectEngineTest : public ::testing::TestWithParam<std::tuple<FileEngineKind, bool>> {
 protected:
  static constexpr std::int64_t kPieceBytes = 64 * kKiB;

  void SetUp() override {
    const auto [kind, registered] = GetParam();
    FileEngineOptions options{.kind = kind, .queue_depth = 3, .piece_bytes = kPieceBytes};
    if (registered) options.registered = memory_.all();
    try {
      engine_ = make_file_engine(options);
    } catch (const SystemError& error) {
      GTEST_SKIP() << error.what();
    }
  }

  // Writes a part of the memory, reads it back into another part or elsewhere, and compares.
  void round_trip(const File& file, std::int64_t offset, std::size_t begin, std::size_t bytes) {
    const std::span<std::byte> source = memory_.part(begin, bytes);
    engine_->write(file, offset, source);
    const AlignedBytes elsewhere(bytes);
    engine_->read(file, offset, elsewhere.all());
    EXPECT_TRUE(same_bytes(elsewhere.all(), source)) << offset << " " << begin << " " << bytes;
    const std::span<std::byte> back = memory_.part(memory_.all().size() / 2 + begin, bytes);
    std::fill(back.begin(), back.end(), std::byte{0});
    engine_->read(file, offset, back);
    EXPECT_TRUE(same_bytes(back, source)) << offset << " " << begin << " " << bytes;
  }

  TempDir dir_;
  AlignedBytes memory_{2 * kMiB, 11};
  std::unique_ptr<FileEngine> engine_;
};

TEST_P(DirectEngineTest, RoundTripsOfWholeBlocks) {
  const File file = new_direct_file(dir_ / "a");
  for (const std::size_t pages : {1u, 15u, 16u, 17u, 61u}) {
    for (const std::size_t first : {0u, 3u}) {
      round_trip(file, static_cast<std::int64_t>((first + pages) * kPage), first * kPage,
                 pages * kPage);
    }
  }
}

TEST_P(DirectEngineTest, RoundTripsOfAnyBytesThroughThePageCache) {
  const File file = File::create(dir_ / "a");
  std::int64_t offset = 5;
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{4097},
                                 std::size_t{kPieceBytes} - 1, 3 * std::size_t{kPieceBytes} + 17}) {
    round_trip(file, offset, 3, size);
    offset += narrow<std::int64_t>(size);
  }
  EXPECT_EQ(file.size(), offset);
}

TEST_P(DirectEngineTest, ManyTransfersAtOnce) {
  const File file = new_direct_file(dir_ / "a");
  const std::size_t half = memory_.all().size() / 2, step = 5 * kPage;
  for (const bool writing : {true, false}) {
    std::vector<Completion> transfers;
    for (std::size_t begin = 0; begin + step <= half; begin += step) {
      const auto offset = narrow<std::int64_t>(begin);
      transfers.push_back(
          writing ? engine_->start_write(file, offset, memory_.part(begin, step))
                  : engine_->start_read(file, offset, memory_.part(half + begin, step)));
    }
    wait_all(transfers);
  }
  const std::size_t all = half / step * step;
  EXPECT_TRUE(same_bytes(memory_.part(half, all), memory_.part(0, all)));
}

TEST_P(DirectEngineTest, EndOfAFileWithinABlock) {
  write_bytes(dir_ / "a", std::string(5000, 'x'));
  const File file = File::open_direct(dir_ / "a");
  EXPECT_THROWS_WITH(SystemError, "the file ends at byte 5000, 3192 more bytes",
                     engine_->read(file, 0, memory_.part(0, 8192)));
}

TEST_P(DirectEngineTest, ErrorsNamePathBytesAndOffset) {
  write_bytes(dir_ / "a", std::string(8192, 'x'));
  const File file = File::open_read(dir_ / "a");
  EXPECT_THROWS_WITH(SystemError, "/a: cannot write 4096 bytes at byte 8192: Bad file descriptor",
                     engine_->write(file, 8192, memory_.part(0, 4096)));
}

TEST_P(DirectEngineTest, UnalignedTransfersOfDirectFilesAreRefused) {
  const File file = new_direct_file(dir_ / "a");
  if (file.direct_alignment() <= 1) GTEST_SKIP() << "this file system aligns nothing";
  EXPECT_THROWS_WITH(LogicError, "past the page cache",
                     engine_->write(file, 1, memory_.part(0, 4096)));
  EXPECT_THROWS_WITH(LogicError, "past the page cache",
                     engine_->write(file, 0, memory_.part(1, 4096)));
  EXPECT_THROWS_WITH(LogicError, "past the page cache",
                     engine_->read(file, 0, memory_.part(0, 4095)));
  EXPECT_EQ(file.size(), 0);
}

TEST_P(DirectEngineTest, SaysWhyMemoryIsNotRegistered) {
  const auto [kind, registered] = GetParam();
  if (!registered) {
    EXPECT_EQ(engine_->why_unregistered(), "no memory was given");
  } else if (kind == FileEngineKind::kThreads) {
    EXPECT_EQ(engine_->why_unregistered(), "files are read by threads, not io_uring");
  } else if (!engine_->why_unregistered().empty()) {
    // Where little memory may be locked.
    EXPECT_NE(engine_->why_unregistered().find("the kernel refuses to register 2.0 MiB"),
              std::string::npos);
  }
}

// Runs in a process of its own, because a failpoint is armed once per process; removes `dir`, for
// that process ends without doing so.
[[noreturn]] void transfer_cut_short(const TempDir& dir, FileEngineKind kind, bool registered,
                                     const char* point, bool direct) {
  ::setenv("THIMBLE_FAILPOINT", point, 1);
  const AlignedBytes memory(40 * kPage, 5);
  FileEngineOptions options{.kind = kind, .queue_depth = 2, .piece_bytes = 64 * kKiB};
  if (registered) options.registered = memory.all();
  const auto engine = make_file_engine(options);
  const File file = direct ? new_direct_file(dir / "a") : File::create(dir / "a");
  const AlignedBytes back(memory.all().size());
  engine->write(file, 0, memory.all());
  engine->read(file, 0, back.all());
  const bool same = same_bytes(back.all(), memory.all());
  std::fputs(same ? "the same bytes" : "other bytes", stderr);
  remove_tree(dir.path());
  std::_Exit(same ? 7 : 1);
}

TEST_P(DirectEngineTest, TransfersCutShortAreContinued) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto [kind, registered] = GetParam();
  for (const char* point : {"io.write:1:short", "io.write:3:short", "io.read:2:short"}) {
    for (const bool direct : {true, false}) {
      EXPECT_EXIT(transfer_cut_short(dir_, kind, registered, point, direct),
                  ::testing::ExitedWithCode(7), "the same bytes")
          << point << " " << direct;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, DirectEngineTest,
                         ::testing::Combine(::testing::Values(FileEngineKind::kUring,
                                                              FileEngineKind::kThreads),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param) == FileEngineKind::kUring
                                                  ? "io_uring"
                                                  : "threads") +
                                  (std::get<1>(info.param) ? "_registered" : "_unregistered");
                         });

// What a system call leaves of a piece of four pages at byte 8192.
internal::IoPiece piece_of(const File& file, internal::IoDirection direction,
                           std::span<std::byte> data) {
  return {nullptr, direction, &file, 8192, data};
}

TEST(Advance, DirectFilesGoOnFromAWholeBlock) {
  const TempDir dir;
  const File file = new_direct_file(dir / "a");
  const std::int64_t block = std::max<std::int64_t>(file.direct_alignment(), 1);
  const AlignedBytes memory(4 * kPage);
  const internal::IoPiece whole = piece_of(file, internal::IoDirection::kWrite, memory.all());
  for (const std::int64_t moved : {block, 4 * kKiB + block - 1, 16 * kKiB - block}) {
    internal::IoPiece piece = whole;
    EXPECT_TRUE(internal::advance(piece, moved));
    EXPECT_EQ(piece.offset, 8192 + moved / block * block);
    EXPECT_EQ(piece.data.data(), memory.all().data() + moved / block * block);
    EXPECT_EQ(piece.data.data() + piece.data.size(), memory.all().data() + 4 * kPage);
  }
  internal::IoPiece piece = whole;
  EXPECT_FALSE(internal::advance(piece, 16 * kKiB));
}

TEST(Advance, ErrorsOfThePiece) {
  const TempDir dir;
  const File file = new_direct_file(dir / "a");
  const AlignedBytes memory(4 * kPage);
  const internal::IoPiece write = piece_of(file, internal::IoDirection::kWrite, memory.all()),
                          read = piece_of(file, internal::IoDirection::kRead, memory.all());
  internal::IoPiece piece = write;
  EXPECT_TRUE(internal::advance(piece, -EINTR));
  EXPECT_EQ(piece.offset, 8192);
  EXPECT_EQ(piece.data.size(), 4 * kPage);
  EXPECT_THROWS_WITH(SystemError,
                     "/a: cannot write 16384 bytes at byte 8192: No space left on device",
                     piece = write;
                     internal::advance(piece, -ENOSPC));
  EXPECT_THROWS_WITH(SystemError, "cannot write 16384 bytes at byte 8192: Input/output error",
                     piece = write;
                     internal::advance(piece, 0));
  EXPECT_THROWS_WITH(SystemError, "/a: cannot read 16384 bytes at byte 8192: Input/output error",
                     piece = read;
                     internal::advance(piece, -EIO));
  EXPECT_THROWS_WITH(SystemError, "the file ends at byte 8192, 16384 more bytes", piece = read;
                     internal::advance(piece, 0));
}

TEST(RegisteredMemory, RefusedByTheKernelItWorksUnregistered) {
  constexpr std::size_t kBytes = 2 * kMiB;
  // The kernel registers only what it could also write to.
  void* const only_read = ::mmap(nullptr, kBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(only_read, MAP_FAILED);
  const std::span<std::byte> memory(static_cast<std::byte*>(only_read), kBytes);
  {
    const auto engine = make_file_engine({.registered = memory});
    EXPECT_FALSE(engine->why_unregistered().empty());
    if (engine->name() == "io_uring") {
      EXPECT_EQ(engine->why_unregistered(),
                "the kernel refuses to register 2.0 MiB of memory: Bad address");
    }
    const TempDir dir;
    const File file = new_direct_file(dir / "a");
    engine->write(file, 0, memory);
    const AlignedBytes back(kBytes, 1);
    engine->read(file, 0, back.all());
    EXPECT_TRUE(same_bytes(back.all(), memory));
  }
  ::munmap(only_read, kBytes);
}

// More than the kernel takes as one buffer, without as much memory: the same pages again and again.
TEST(RegisteredMemory, TransfersAcrossTheEndOfABuffer) {
  constexpr std::size_t kPages = 4 * kMiB, kBytes = kGiB + 2 * kPages;
  const FileDescriptor pages(::memfd_create("pages", MFD_CLOEXEC));
  ASSERT_TRUE(pages);
  ASSERT_EQ(::ftruncate(pages.get(), kPages), 0);
  void* const start = ::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(start, MAP_FAILED);
  const std::span<std::byte> memory(static_cast<std::byte*>(start), kBytes);
  for (std::size_t begin = 0; begin < kBytes; begin += kPages) {
    ASSERT_NE(::mmap(memory.data() + begin, kPages, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                     pages.get(), 0),
              MAP_FAILED);
  }
  const std::vector<std::byte> random = testing::random_bytes(kPages, 8);
  std::copy(random.begin(), random.end(), memory.begin());
  {
    const auto engine = make_file_engine({.piece_bytes = kMiB, .registered = memory});
    const TempDir dir;
    const File file = new_direct_file(dir / "a");
    const AlignedBytes back(2 * kMiB);
    for (const std::size_t begin : {std::size_t{kGiB} - 2 * kMiB, std::size_t{kGiB} - 3 * kPage,
                                    std::size_t{kGiB}, kBytes - 2 * kMiB}) {
      engine->write(file, 0, memory.subspan(begin, 2 * kMiB));
      engine->read(file, 0, back.all());
      EXPECT_TRUE(same_bytes(back.all(), memory.subspan(begin, 2 * kMiB))) << begin;
    }
  }
  ::munmap(start, kBytes);
}

TEST(PieceBytes, OutOfRangeIsOurOwnBug) {
  for (const std::int64_t bytes : {std::int64_t{0}, 32 * kKiB, 64 * kKiB + 512, 8 * kMiB}) {
    EXPECT_THROWS_WITH(LogicError, "from 64 KiB to 4 MiB",
                       make_file_engine({.piece_bytes = bytes}));
  }
}

}  // namespace
}  // namespace thimble
