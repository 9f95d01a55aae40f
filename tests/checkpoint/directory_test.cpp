#include <gtest/gtest.h>

#include "checkpoint/checkpoint_directory.h"
#include "core/base/error.h"
#include "tests/checkpoint/sample_checkpoint.h"

namespace thimble {
namespace {

using testing::holds_sample;
using testing::save_sample;
using testing::TempDir;
using testing::write_bytes;

class CheckpointDirectoryTest : public ::testing::Test {
 protected:
  std::vector<std::int64_t> steps() const {
    std::vector<std::int64_t> steps;
    for (const CheckpointName& name : list_checkpoints(dir_.path())) steps.push_back(name.step);
    return steps;
  }

  TempDir dir_;
  std::unique_ptr<FileEngine> engine_ = make_file_engine({.kind = FileEngineKind::kThreads});
  std::vector<std::string> rejected_;
};

using Steps = std::vector<std::int64_t>;

TEST_F(CheckpointDirectoryTest, ListsOnlyProperNamesByStep) {
  EXPECT_TRUE(list_checkpoints(dir_ / "none").empty());
  for (const char* name : {"ckpt-10", "ckpt-9", "ckpt-0", "ckpt-007", "ckpt--1", "ckpt-", "ckpt-5x",
                           "ckpt-4.tmp", "other", "ckpt-99999999999999999999"}) {
    std::filesystem::create_directory(dir_ / name);
  }
  write_bytes(dir_ / "ckpt-3", "a file");
  EXPECT_EQ(steps(), (Steps{0, 9, 10}));
}

TEST_F(CheckpointDirectoryTest, NewestValidPassesOverDamagedOnes) {
  EXPECT_FALSE(open_newest_valid(dir_.path(), {*engine_, {}}, rejected_).has_value());
  save_sample(dir_.path(), *engine_, 1);
  save_sample(dir_.path(), *engine_, 20);
  save_sample(dir_.path(), *engine_, 3);
  EXPECT_EQ(open_newest_valid(dir_.path(), {*engine_, {}}, rejected_)->step(), 20);
  EXPECT_TRUE(rejected_.empty());
  write_bytes(dir_ / "ckpt-20/MANIFEST", "{}");
  std::filesystem::create_directory(dir_ / "ckpt-30");
  const auto reader = open_newest_valid(dir_.path(), {*engine_, {}}, rejected_);
  ASSERT_TRUE(reader.has_value());
  EXPECT_EQ(reader->step(), 3);
  EXPECT_TRUE(holds_sample(*reader));
  ASSERT_EQ(rejected_.size(), 2u);
  EXPECT_NE(rejected_[0].find("ckpt-30: not a checkpoint"), std::string::npos);
  EXPECT_NE(rejected_[1].find("ckpt-20/MANIFEST"), std::string::npos);
}

TEST_F(CheckpointDirectoryTest, PruneKeepsTheNewestAndTheProtected) {
  for (const std::int64_t step : {1, 2, 3, 4, 5}) {
    std::filesystem::create_directory(dir_ / ("ckpt-" + std::to_string(step)));
  }
  std::filesystem::create_directory(dir_ / "ckpt-1.tmp");
  write_bytes(dir_ / "ckpt-1.tmp/leftover", "x");
  EXPECT_EQ(prune_checkpoints(dir_.path(), {.keep_last = 2, .protect = {2}}).size(), 2u);
  EXPECT_EQ(steps(), (Steps{2, 4, 5}));
  EXPECT_FALSE(std::filesystem::exists(dir_ / "ckpt-1.tmp"));
  EXPECT_TRUE(prune_checkpoints(dir_.path(), {.keep_last = 9}).empty());
  EXPECT_EQ(prune_checkpoints(dir_.path(), {.keep_last = 0}).size(), 3u);
  EXPECT_TRUE(steps().empty());
}

TEST_F(CheckpointDirectoryTest, PruneKeepsEveryKthStep) {
  for (const std::int64_t step : {10, 15, 20, 25, 30, 31}) {
    std::filesystem::create_directory(dir_ / ("ckpt-" + std::to_string(step)));
  }
  EXPECT_EQ(prune_checkpoints(dir_.path(), {.keep_last = 2, .keep_every = 20}).size(), 3u);
  EXPECT_EQ(steps(), (Steps{20, 30, 31}));
  EXPECT_EQ(prune_checkpoints(dir_.path(), {.keep_last = 1, .keep_every = 1}).size(), 0u);
}

TEST_F(CheckpointDirectoryTest, ListsWhatIsUnfinishedOrSetAside) {
  for (const char* name : {"ckpt-4.tmp", "ckpt-12.tmp", "ckpt-x.tmp", "ckpt-4.old-1",
                           "ckpt-4.old-12", "ckpt-4.old-", "ckpt-4.old-x", "ckpt-4.old-1.tmp"}) {
    std::filesystem::create_directory(dir_ / name);
  }
  const auto names = [](const std::vector<CheckpointName>& found) {
    std::vector<std::string> names;
    for (const CheckpointName& c : found) names.push_back(c.path.filename());
    return names;
  };
  EXPECT_EQ(names(list_unfinished(dir_.path())),
            (std::vector<std::string>{"ckpt-4.tmp", "ckpt-12.tmp"}));
  EXPECT_EQ(names(list_set_aside(dir_.path())),
            (std::vector<std::string>{"ckpt-4.old-1", "ckpt-4.old-12"}));
  EXPECT_TRUE(list_unfinished(dir_ / "none").empty());
}

TEST_F(CheckpointDirectoryTest, RemoveStaleLeavesEverythingElse) {
  for (const char* name : {"ckpt-4.tmp", "ckpt-x.tmp", "ckpt-5", "mine.tmp"}) {
    std::filesystem::create_directory(dir_ / name);
  }
  EXPECT_EQ(remove_stale(dir_.path()), (std::vector<std::filesystem::path>{dir_ / "ckpt-4.tmp"}));
  EXPECT_TRUE(std::filesystem::exists(dir_ / "ckpt-x.tmp"));
  EXPECT_TRUE(std::filesystem::exists(dir_ / "mine.tmp"));
  EXPECT_EQ(steps(), (Steps{5}));
}

}  // namespace
}  // namespace thimble
