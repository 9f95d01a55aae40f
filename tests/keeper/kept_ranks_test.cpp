// Which moment counts: the newest that every rank of one start has sealed.
#include "keeper/kept_ranks.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/keeper/sample_snapshots.h"

namespace thimble {
namespace {

class KeptRanksTest : public ::testing::Test {
 protected:
  SampleRank& rank(int number, int ranks) {
    ranks_.push_back(std::make_unique<SampleRank>(number, ranks));
    kept_.keep(number, share(ranks_.back()->memory()));
    return *ranks_.back();
  }
  std::optional<SnapshotMoment> newest() {
    damaged_.clear();
    const auto found = kept_.newest(damaged_);
    return found ? std::optional(found->moment) : std::nullopt;
  }

  std::vector<std::unique_ptr<SampleRank>> ranks_;
  KeptRanks kept_;
  std::vector<std::string> damaged_;
};

TEST_F(KeptRanksTest, AMomentNeedsAllRanks) {
  SampleRank& a = rank(0, 2);
  SampleRank& b = rank(1, 2);
  EXPECT_FALSE(newest());
  a.fill(0, {1, 5});
  EXPECT_FALSE(newest());
  b.fill(0, {1, 5});
  EXPECT_EQ(newest(), (SnapshotMoment{1, 5}));
  a.fill(1, {2, 5});
  b.begin(1, {2, 5});
  EXPECT_EQ(newest(), (SnapshotMoment{1, 5}));
  b.seal(1);
  EXPECT_EQ(newest(), (SnapshotMoment{2, 5}));
}

TEST_F(KeptRanksTest, StartsAreNeverMixed) {
  SampleRank& a = rank(0, 2);
  SampleRank& b = rank(1, 2);
  a.fill(0, {4, 1});
  b.fill(0, {4, 2});
  EXPECT_FALSE(newest());
  b.fill(1, {4, 1});
  EXPECT_EQ(newest(), (SnapshotMoment{4, 1}));
}

TEST_F(KeptRanksTest, OlderStartsStayUntilTheyAreDropped) {
  rank(0, 1).fill(0, {9, 1});
  kept_.make_older();
  SampleRank& a = rank(0, 2);
  SampleRank& b = rank(1, 2);
  EXPECT_EQ(newest(), (SnapshotMoment{9, 1}));
  a.fill(0, {10, 2});
  b.fill(0, {10, 2});
  EXPECT_EQ(newest(), (SnapshotMoment{10, 2}));
  std::vector<std::string> damaged;
  EXPECT_TRUE(kept_.find({9, 1}, damaged));
  kept_.drop_older();
  EXPECT_FALSE(kept_.find({9, 1}, damaged));
  EXPECT_EQ(kept_.all().size(), 2u);
}

TEST_F(KeptRanksTest, DamagedSlotsArePassedOver) {
  SampleRank& a = rank(0, 1);
  a.fill(0, {1, 1});
  a.fill(1, {2, 1});
  const auto place = kept_.newest(damaged_);
  a.snapshots().pieces(1)[0].crc ^= 1;
  EXPECT_EQ(newest(), (SnapshotMoment{1, 1}));
  ASSERT_EQ(damaged_.size(), 1u);
  EXPECT_NE(damaged_[0].find("rank 0"), std::string::npos);
  EXPECT_THROW(snapshots_of(*place), SystemError);
  a.snapshots().clear(1);
  EXPECT_THROW(snapshots_of(*place), SystemError);
}

}  // namespace
}  // namespace thimble
