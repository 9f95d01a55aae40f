// What others do to the files, and runs that begin or go back where another one was.
#include <gtest/gtest.h>

#include "tests/offload/disk_of_tests.h"
#include "tests/offload/rank_meeting.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using testing::Bytes;
using testing::DiskSetup;
using testing::many_random_bytes;
using testing::message_of;
using testing::TempDir;
using testing::TestDisk;
using testing::write_bytes;

enum FaultKey { kFirst, kSecond };

// Two keys of which step 1 wrote both, and step 2 the first: it lies in state-1.h5 and the other
// one in state-0.h5.
class SlotDiskFaults : public ::testing::Test {
 protected:
  SlotDiskFaults() {
    TestDisk disk(setup_);
    disk->start_new();
    disk->create(kFirst);
    disk->create(kSecond);
    disk.write(kFirst, 0, many_random_bytes(kSize, 1));
    disk.write(kSecond, 0, second_);
    disk->commit(1, "");
    disk.write(kFirst, 0, first_);
    disk->commit(2, "");
  }

  fs::path file(int number) const { return dir_ / fmt::format("state-{}.h5", number); }
  void flip(const fs::path& path, std::int64_t at) const {
    const File file = File::open_read_write(path);
    std::byte one{};
    file.read_at(at, {&one, 1});
    one ^= std::byte{0x10};
    file.write_at(at, {&one, 1});
  }
  std::unique_ptr<TestDisk> recovered(const DiskSetup& setup) const {
    auto disk = std::make_unique<TestDisk>(setup);
    (*disk)->recover(*testing::newest_record(dir_.path()));
    return disk;
  }
  std::unique_ptr<TestDisk> recovered() const { return recovered(setup_); }
  void expect_step_2(TestDisk& disk) const {
    EXPECT_EQ(disk.read(kFirst, 0, kSize), first_);
    EXPECT_EQ(disk.read(kSecond, 0, kSize), second_);
  }

  static constexpr std::int64_t kSize = 10'000;
  const TempDir dir_;
  const DiskSetup setup_{.directory = dir_.path(),
                         .arrays = testing::arrays_of_sizes({{"first", kSize}, {"second", kSize}})};
  const Bytes first_ = many_random_bytes(kSize, 2), second_ = many_random_bytes(kSize, 3);
};

TEST_F(SlotDiskFaults, AChangedByteIsFoundWhenItIsRead) {
  const std::int64_t first = setup_.arrays[kFirst].offset, second = setup_.arrays[kSecond].offset;
  flip(file(0), first + 17);  // where nothing is any more
  flip(file(1), second);
  flip(file(0), second + kSize);  // behind the end
  const auto disk = recovered();
  expect_step_2(*disk);
  flip(file(0), second + kSize - 1);
  EXPECT_EQ(disk->read(kFirst, 0, kSize), first_);
  const std::string wanted =
      fmt::format("{}: bytes {} to {}, of 'second', are not what was written", file(0).string(),
                  second, second + kSize);
  EXPECT_THROWS_WITH(SystemError, wanted, disk->read(kSecond, 0, kSize));
  EXPECT_THROWS_WITH(SystemError, wanted, disk->read(kSecond, 5, 6));
  // It does not spread to the file that the next step writes either.
  disk->write(kSecond, 0, Bytes(7));
  EXPECT_THROWS_WITH(SystemError, wanted, (*disk)->commit(3, ""));
  EXPECT_EQ(testing::newest_record(dir_.path())->step, 2);
  flip(file(0), second + kSize - 1);
  expect_step_2(*recovered());
}

TEST_F(SlotDiskFaults, AFileThatIsGoneIsNamed) {
  fs::remove(file(1));
  EXPECT_THROWS_WITH(UserError, file(1).string() + ": state lies in the file, and it is gone",
                     recovered());
}

TEST_F(SlotDiskFaults, AFileThatIsCutIsNamed) {
  for (const std::uintmax_t size : {0, 5000}) {
    fs::resize_file(file(0), size);
    EXPECT_THROWS_WITH(
        UserError,
        fmt::format("{}: state lies in the file, and it has {} bytes of ", file(0).string(), size),
        recovered());
  }
}

TEST_F(SlotDiskFaults, AFileWithoutStateMayBeGoneOrCut) {
  const int target = (*recovered())->gather_in_one_file();
  const std::string other = file(1 - target).string();
  fs::resize_file(other, 4096);
  expect_step_2(*recovered());
  ASSERT_EQ(testing::state_files(dir_.path()).size(), 2u) << "made anew";
  for (const std::string& name : testing::state_files(dir_.path())) {
    if (dir_ / name != file(target)) fs::remove(dir_ / name);
  }
  const auto disk = recovered();
  disk->write(kFirst, 0, Bytes(kSize));
  (*disk)->commit(3, "");
  EXPECT_EQ(recovered()->read(kFirst, 0, kSize), Bytes(kSize));
}

TEST_F(SlotDiskFaults, AFileThatIsCutUnderneathIsNamed) {
  const auto disk = recovered();
  fs::resize_file(file(0), 5000);
  EXPECT_THROWS_WITH(SystemError, file(0).string() + ": the file ends at byte ",
                     disk->read(kSecond, 0, kSize));
}

TEST_F(SlotDiskFaults, AnotherRunsStateIsRefused) {
  DiskSetup other = setup_;
  other.identity = "another";
  EXPECT_THROWS_WITH(UserError, "it holds the state of another run, 'a run'", recovered(other));
  other = setup_;
  other.arrays = testing::arrays_of_sizes({{"first", kSize}, {"third", kSize}});
  EXPECT_THROWS_WITH(UserError, "the files have no room for 10000 bytes of 'third'",
                     recovered(other));
  other.arrays = testing::arrays_of_sizes({{"first", kSize}, {"second", kSize - 1}});
  EXPECT_THROWS_WITH(UserError, "the files have no room for 9999 bytes of 'second'",
                     recovered(other));
  CommitRecord record = *testing::newest_record(dir_.path());
  record.keys[0].name = "third";
  EXPECT_THROWS_WITH(UserError, "it holds 'third' of 10000 bytes, which this job does not have",
                     TestDisk(setup_)->recover(record));
  record = *testing::newest_record(dir_.path());
  record.torn = true;
  EXPECT_THROWS_WITH(UserError, "was changing the state in place",
                     TestDisk(setup_)->recover(record));
  expect_step_2(*recovered());
}

TEST_F(SlotDiskFaults, ALayoutThatIsDamagedIsNamed) {
  const fs::path path = dir_ / "layout-0.json";
  const std::string good = testing::read_bytes(path);
  const auto with = [&](const std::string& text) {
    write_bytes(path, text);
    return message_of<UserError>([&] { recovered(); });
  };
  EXPECT_NE(with("").find("layout-0.json"), std::string::npos);
  EXPECT_NE(with("nonsense").find("layout-0.json"), std::string::npos);
  EXPECT_NE(with("{}").find("layout-0.json"), std::string::npos);
  EXPECT_NE(with(good.substr(0, good.size() / 2)).find("layout-0.json"), std::string::npos);
  for (std::size_t i = 0; i < good.size(); i += 3) {
    std::string text = good;
    text[i] = text[i] == '9' ? '8' : '9';
    const std::string why = with(text);
    const bool blank = good[i] == ' ' || good[i] == '\n';
    EXPECT_TRUE(blank || why != "(nothing was thrown)") << text;
  }
  fs::remove(path);
  EXPECT_THROWS_WITH(UserError, "layout-0.json", recovered());
  write_bytes(path, good);
  expect_step_2(*recovered());
}

TEST_F(SlotDiskFaults, WithoutTheNewestRecordTheStateBeforeIsThere) {
  write_bytes(commit_path(dir_.path(), 0, 2), "nonsense");
  std::vector<std::string> rejected;
  const std::vector<CommitRecord> found = read_commits(dir_.path(), 0, rejected);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(rejected.size(), 1u);
  TestDisk disk(setup_);
  disk->recover(found[0]);
  EXPECT_EQ(disk.read(kFirst, 0, kSize), many_random_bytes(kSize, 1));
  EXPECT_EQ(disk.read(kSecond, 0, kSize), second_);
}

TEST_F(SlotDiskFaults, WithoutRecordsARunBeginsAnew) {
  for (const std::int64_t parity : {0, 1})
    write_bytes(commit_path(dir_.path(), 0, parity), "nonsense");
  std::vector<std::string> rejected;
  EXPECT_TRUE(read_commits(dir_.path(), 0, rejected).empty());
  EXPECT_EQ(rejected.size(), 2u);
  TestDisk disk(setup_);
  disk->create(kFirst);
  disk->start_new();
  disk->commit(0, "");
  EXPECT_EQ(testing::newest_record(dir_.path())->step, 0);
}

TEST_F(SlotDiskFaults, ARunThatBeginsWhereOneWasLeavesNothingOfIt) {
  // A checkpoint of the earlier run, and a file that it left when it was killed.
  fs::create_hard_link(file(0), dir_ / "checkpoint");
  const Bytes checkpoint = testing::bytes_of_file(file(0));
  fs::copy_file(file(1), file(7));
  write_bytes(dir_ / "state-x.h5", "another's");
  TestDisk disk(setup_);
  disk->start_new();
  disk->create(kFirst);
  disk->commit(0, "");
  const auto record = testing::newest_record(dir_.path());
  EXPECT_EQ(record->generation, 1);
  EXPECT_EQ(record->step, 0);
  EXPECT_EQ(testing::bytes_of_file(dir_ / "checkpoint"), checkpoint);
  EXPECT_EQ(testing::state_files(dir_.path()),
            (std::vector<std::string>{"state-0.h5", "state-1.h5", "state-x.h5"}));
}

// As when another rank has not committed the newest step: it is done again, and may end otherwise.
TEST_F(SlotDiskFaults, ARunThatGoesBackForgetsWhatCameAfter) {
  std::vector<std::string> rejected;
  const std::vector<CommitRecord> found = read_commits(dir_.path(), 0, rejected);
  ASSERT_EQ(found.size(), 2u);
  TestDisk disk(setup_);
  disk->recover(found[1]);
  EXPECT_EQ(testing::newest_record(dir_.path()), found[1]);
  disk.write(kFirst, 0, Bytes(kSize));
  EXPECT_EQ(testing::newest_record(dir_.path()), found[1]);
  disk->commit(2, "again");
  EXPECT_EQ(recovered()->read(kFirst, 0, kSize), Bytes(kSize));
}

TEST_F(SlotDiskFaults, WhatIsErasedStaysUntilThatIsCommitted) {
  fs::create_hard_link(file(0), dir_ / "checkpoint");
  const auto disk = recovered();
  (*disk)->erase(kSecond);
  (*disk)->settle_files();
  expect_step_2(*recovered());
}

TEST_F(SlotDiskFaults, WhatChangesIsNotGathered) {
  const auto disk = recovered();
  disk->write(kFirst, 0, Bytes(1));
  EXPECT_THROWS_WITH(LogicError, "'first' has changed since the commit",
                     (*disk)->gather_in_one_file());
}

// All of the first rank's state is in the checkpoint's file, but not all of the other's.
TEST(SlotDiskRanks, ACheckpointIsNotGatheredInto) {
  const TempDir dir;
  testing::Meeting meeting(2);
  const fs::path link = dir / "checkpoint";
  testing::run_ranks(2, meeting, [&](int rank) {
    TestDisk disk({.directory = dir.path(),
                   .arrays = testing::arrays_of({{"a", {5000, 9000}}, {"b", {10, 7000}}}),
                   .rank = rank,
                   .gather = [&, rank](std::int64_t mine) { return meeting.gather(rank, mine); }});
    disk->start_new();
    for (const int key : {0, 1}) {
      disk->create(key);
      disk.write(key, 0, many_random_bytes(10, 1));
    }
    disk->commit(1, "");
    if (rank == 0) fs::create_hard_link(disk->files().path(0), link);
    disk->settle_files();
    const Bytes before = testing::bytes_of_file(link);
    if (rank == 1) disk.write(1, 3, many_random_bytes(100, 2));
    disk->commit(2, "");
    const int file = disk->gather_in_one_file();
    EXPECT_NE(file, 0);
    EXPECT_EQ(testing::bytes_of_file(link), before);
  });
}

TEST(SlotDiskRanks, AnotherNameOfAnyRanksFileCounts) {
  const TempDir dir;
  testing::Meeting meeting(2);
  testing::run_ranks(2, meeting, [&](int rank) {
    TestDisk disk({.directory = dir.path(),
                   .arrays = testing::arrays_of({{"a", {5000, 9000}}}),
                   .rank = rank,
                   .gather = [&, rank](std::int64_t mine) { return meeting.gather(rank, mine); },
                   .own_files = true});
    disk->start_new();
    disk->create(0);
    disk.write(0, 0, many_random_bytes(10, 1));
    disk->commit(1, "");
    const fs::path link = dir / "checkpoint";
    if (rank == 1) fs::create_hard_link(disk->files().path(0), link);
    disk->settle_files();
    const Bytes before = testing::bytes_of_file(link);
    for (std::int64_t step = 2; step < 6; ++step) {
      disk.write(0, step, many_random_bytes(10, static_cast<std::uint64_t>(step)));
      disk->commit(step, "");
    }
    EXPECT_EQ(testing::bytes_of_file(link), before);
    EXPECT_EQ(testing::newest_record(dir.path(), rank)->step, 5);
  });
}

}  // namespace
}  // namespace thimble
