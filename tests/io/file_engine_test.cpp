#include "core/io/file_engine.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "core/base/error.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

using testing::random_bytes;
using testing::read_bytes;
using testing::TempDir;
using testing::write_bytes;

/// One body for both engines.
class FileEngineTest : public ::testing::TestWithParam<FileEngineKind> {
 protected:
  void SetUp() override {
    try {
      engine_ = make_file_engine({.kind = GetParam(), .queue_depth = 3});
    } catch (const SystemError& error) {
      GTEST_SKIP() << error.what();
    }
  }

  TempDir dir_;
  std::unique_ptr<FileEngine> engine_;
};

TEST_P(FileEngineTest, RoundTripOfManySizes) {
  const std::size_t piece = FileEngine::kPieceBytes;
  const File file = File::create(dir_ / "a");
  std::int64_t offset = 5;
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{4097}, piece - 1,
                                 piece, piece + 1, 3 * piece + 17}) {
    const auto data = random_bytes(size, static_cast<unsigned>(size));
    engine_->write(file, offset, data);
    std::vector<std::byte> back(size);
    engine_->read(file, offset, back);
    EXPECT_TRUE(back == data) << size;
    offset += static_cast<std::int64_t>(size);
  }
  EXPECT_EQ(file.size(), offset);
}

TEST_P(FileEngineTest, ManyTransfersBeyondTheQueueDepth) {
  const File file = File::create(dir_ / "a");
  const auto data = random_bytes(64 * 1000, 3);
  std::vector<Completion> writes;
  for (std::size_t i = 0; i < 64; ++i) {
    writes.push_back(engine_->start_write(file, static_cast<std::int64_t>(i * 1000),
                                          std::span(data).subspan(i * 1000, 1000)));
  }
  wait_all(writes);
  for (const Completion& write : writes) EXPECT_TRUE(write.done());
  std::vector<std::byte> back(data.size());
  engine_->read(file, 0, back);
  EXPECT_TRUE(back == data);
}

TEST_P(FileEngineTest, StartsFromSeveralThreads) {
  const File file = File::create(dir_ / "a");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const std::vector<std::byte> data(5000, static_cast<std::byte>(t));
      for (int i = 0; i < 20; ++i) engine_->write(file, (i * 4 + t) * 5000, data);
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::string text = read_bytes(dir_ / "a");
  ASSERT_EQ(text.size(), 400'000u);
  for (std::size_t i = 0; i < text.size(); ++i) {
    ASSERT_EQ(text[i], static_cast<char>(i / 5000 % 4)) << i;
  }
}

TEST_P(FileEngineTest, ErrorIsThrownOnceByWait) {
  write_bytes(dir_ / "a", "abc");
  const File file = File::open_read(dir_ / "a");
  std::vector<std::byte> buffer(10);
  Completion read = engine_->start_read(file, 0, buffer);
  EXPECT_THROWS_WITH(SystemError, "the file ends at byte 3, 7 more", {
    Completion failing = engine_->start_read(file, 0, buffer);
    failing.wait();
  });
  EXPECT_THROW(read.wait(), SystemError);
  EXPECT_NO_THROW(read.wait());
  EXPECT_THROWS_WITH(SystemError, "Bad file descriptor", engine_->write(file, 0, buffer));
}

TEST_P(FileEngineTest, WaitAllWaitsForAllAndThrowsTheFirst) {
  write_bytes(dir_ / "a", "abc");
  const File file = File::open_read(dir_ / "a");
  std::vector<std::byte> good(3), bad(4);
  std::vector<Completion> reads;
  reads.push_back(engine_->start_read(file, 0, good));
  reads.push_back(engine_->start_read(file, 0, bad));
  reads.push_back(engine_->start_read(file, 0, good));
  EXPECT_THROW(wait_all(reads), SystemError);
  EXPECT_EQ(std::to_integer<char>(good[2]), 'c');
}

TEST_P(FileEngineTest, DroppedCompletionWaitsForItsTransfer) {
  const File file = File::create(dir_ / "a");
  {
    const auto data = random_bytes(9'000'000, 4);
    const Completion dropped = engine_->start_write(file, 0, data);
  }
  EXPECT_EQ(file.size(), 9'000'000);
}

TEST_P(FileEngineTest, InjectedErrorReachesWhoWaits) {
  // Re-executed, because the point is armed once per process.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        ::setenv("THIMBLE_FAILPOINT", "io.write:2:enospc", 1);
        const auto engine = make_file_engine({.kind = GetParam()});
        const File file = File::create(dir_ / "b");
        const std::vector<std::byte> data(FileEngine::kPieceBytes + 1);
        try {
          engine->write(file, 0, data);
        } catch (const SystemError& error) {
          std::fputs(error.what(), stderr);
          remove_tree(dir_.path());  // of this process, which ends without doing so
          std::_Exit(7);
        }
        std::_Exit(1);
      },
      ::testing::ExitedWithCode(7), "No space left on device");
}

INSTANTIATE_TEST_SUITE_P(Kinds, FileEngineTest,
                         ::testing::Values(FileEngineKind::kUring, FileEngineKind::kThreads),
                         [](const auto& info) {
                           return info.param == FileEngineKind::kUring ? "io_uring" : "threads";
                         });

TEST(MakeFileEngine, AutoAlwaysYieldsAnEngine) {
  const auto engine = make_file_engine();
  EXPECT_TRUE(engine->name() == "io_uring" || engine->name() == "threads");
}

}  // namespace
}  // namespace thimble
