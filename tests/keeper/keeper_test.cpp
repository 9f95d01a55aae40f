// A keeper as ranks meet it.
#include "keeper/keeper.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/keeper/running_keeper.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

SaveOutcome outcome_of(KeeperClient& client) {
  std::optional<SaveOutcome> outcome;
  EXPECT_TRUE(comes_true([&] { return (outcome = client.take_outcome()).has_value(); }));
  return outcome.value_or(SaveOutcome{});
}

void expect_checkpoint(const fs::path& path, const SnapshotMoment& moment) {
  const auto files = make_file_engine();
  const CheckpointReader reader = CheckpointReader::open(path, {*files, {}});
  EXPECT_EQ(reader.step(), moment.step);
  reader.require(sample_arrays());
  for (const CheckpointTensor& tensor : sample_arrays()) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(checkpoint_bytes(tensor)));
    reader.read(tensor.name, tensor.slot, 0, bytes);
    EXPECT_TRUE(bytes == sample_bytes(tensor, moment)) << tensor.name;
  }
}

TEST(Keeper, SavesWhatItIsAskedToOnceItIsSealed) {
  RunningKeeper keeper;
  KeeperClient first = keeper.client(0), second = keeper.client(1);
  SampleRank a(0, 2), b(1, 2);
  first.keep(0, 3, a.memory());
  second.keep(1, 3, b.memory());
  a.begin(0, {7, 3});
  b.begin(0, {7, 3});
  first.save({7, 3});
  EXPECT_EQ(first.look().saving_step, 7);
  a.seal(0);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(first.take_outcome());
  b.seal(0);
  const SaveOutcome outcome = outcome_of(first);
  EXPECT_EQ(outcome.failure, "");
  EXPECT_EQ(outcome.moment, (SnapshotMoment{7, 3}));
  expect_checkpoint(outcome.path, {7, 3});
  EXPECT_EQ(a.snapshots().state(0), SnapshotState::kDurable);
  EXPECT_FALSE(second.take_outcome());  // of rank 0 alone
  EXPECT_EQ(first.look().saving_step, -1);
}

TEST(Keeper, KeepsWhatRanksLeaveAndSavesIt) {
  RunningKeeper keeper;
  {
    KeeperClient client = keeper.client(0);
    SampleRank a(0, 1);
    client.keep(0, 3, a.memory());
    a.fill(0, {7, 3});
    a.begin(1, {8, 3});
  }
  EXPECT_TRUE(comes_true([&] { return keeper.newest_step() == 7; }));
  expect_checkpoint(keeper.checkpoints() / "ckpt-7", {7, 3});
  KeeperClient again = keeper.client(0);
  const KeptMemory kept = again.look();
  ASSERT_EQ(kept.ranks.size(), 1u);
  EXPECT_EQ(kept.ranks[0].first, 0);
  const MappedMemory mapped(kept.ranks[0].second);
  const auto sealed = SnapshotMemory::open(mapped.bytes()).sealed(0);
  ASSERT_TRUE(sealed);
  EXPECT_EQ(sealed->text.step, 7);
  EXPECT_NO_THROW(sealed->verify());
  again.forget();
  EXPECT_TRUE(again.look().ranks.empty());
}

TEST(Keeper, SavesNothingOlderThanWhatIsOnDisk) {
  RunningKeeper keeper;
  {
    KeeperClient client = keeper.client(0);
    SampleRank a(0, 1);
    client.keep(0, 3, a.memory());
    a.fill(0, {7, 3});
    client.save({7, 3});
    EXPECT_EQ(outcome_of(client).failure, "");
    fs::rename(keeper.checkpoints() / "ckpt-7", keeper.checkpoints() / "ckpt-9");
    a.fill(1, {8, 3});
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  EXPECT_FALSE(fs::exists(keeper.checkpoints() / "ckpt-8"));
}

TEST(Keeper, ADamagedByteIsToldAndNothingIsSaved) {
  RunningKeeper keeper;
  KeeperClient client = keeper.client(0);
  SampleRank a(0, 1);
  client.keep(0, 3, a.memory());
  a.fill(0, {7, 3});
  a.snapshots().data(0)[2000] ^= std::byte{1};
  client.save({7, 3});
  const SaveOutcome outcome = outcome_of(client);
  EXPECT_NE(outcome.failure.find("c/codes"), std::string::npos) << outcome.failure;
  EXPECT_EQ(keeper.newest_step(), -1);
  EXPECT_FALSE(fs::exists(keeper.checkpoints() / "ckpt-7.tmp"));
  a.fill(1, {8, 3});
  client.save({8, 3});
  expect_checkpoint(outcome_of(client).path, {8, 3});
}

TEST(Keeper, ADiskThatRefusesIsTold) {
  RunningKeeper keeper;
  testing::write_bytes(keeper.checkpoints(), "in the way");
  KeeperClient client = keeper.client(0);
  SampleRank a(0, 1);
  client.keep(0, 3, a.memory());
  a.fill(0, {7, 3});
  client.save({7, 3});
  EXPECT_NE(outcome_of(client).failure, "");
  EXPECT_TRUE(client.is_alive());
}

TEST(Keeper, EndsWhenTheRunDoesOrNobodyComes) {
  {
    RunningKeeper keeper;
    KeeperClient client = keeper.client(0);
    client.finish();
    keeper.join();
    EXPECT_TRUE(keeper.ran());
    EXPECT_TRUE(comes_true([&] { return !client.is_alive(); }));
    EXPECT_THROW(client.look(), SystemError);
    EXPECT_FALSE(KeeperClient::find(keeper.options(), 0));
  }
  RunningKeeper keeper(0.002);
  keeper.join();
  EXPECT_TRUE(keeper.ran());
}

TEST(Keeper, OneHasTheName) {
  RunningKeeper keeper;
  EXPECT_FALSE(run_keeper(keeper.options(), [] {}));
  EXPECT_NE(keeper_name("/a", "n"), keeper_name("/a", "m"));
  EXPECT_NE(keeper_name("/a", "n"), keeper_name("/b", "n"));
}

TEST(Keeper, StrangersAreRefusedAndOthersServedOn) {
  RunningKeeper keeper;
  KeeperClient client = keeper.client(0);
  const std::string name = keeper_name(keeper.options().run, keeper.options().node);
  for (const char* text :
       {"", "not json", "{}", R"({"ask":"hello","version":-1,"rank":0})", R"({"ask":"dance"})",
        R"({"ask":"keep","rank":0,"start":1})", R"({"ask":"save"})", "[1,2]"}) {
    Channel stranger = Channel::connect_local(name).value();
    stranger.send(text);
    stranger.set_time_limit(20);
    // Hung up on, or told why not.
    if (const auto answer = stranger.receive()) {
      EXPECT_NE(answer->text.find(R"("ok":false)"), std::string::npos) << text << answer->text;
    }
  }
  EXPECT_TRUE(client.look().ranks.empty());
}

}  // namespace
}  // namespace thimble
