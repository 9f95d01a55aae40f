#include "offload/state_cache.h"

#include <gtest/gtest.h>

#include "tests/offload/state_of_tests.h"

namespace thimble {
namespace {

using testing::bytes_in;
using testing::TempDir;
using testing::TestTable;

constexpr StateFormats kCachedFormats{
    .weights = DType::kBF16, .master = MasterFormat::kF32, .divided = true};

TEST(StateCacheTest, WhatStaysInMemoryIsReadOnceAndWrittenByCommits) {
  const TempDir dir;
  const TestTable table(kCachedFormats);
  const std::unique_ptr<Arena> arena = Arena::make_cpu(kGiB);
  OffloadOptions options = table.options(dir.path(), 0, 0);
  const StateId id = table->find(*table->params().find("big"), "moment")->id;
  options.cached = {id};
  options.commit_steps = 2;
  const auto home = std::make_shared<OffloadHome>(*arena, *table, 0, options);
  home->start();
  OffloadedState state(home);
  create_state(state, *table, 0);
  state.commit(0);
  constexpr std::int64_t kBytes = 3000 * 16 * 4;
  for (std::int64_t step = 1; step <= 5; ++step) {
    for (std::int64_t row = 0; row < 3000; row += 100) {
      const StateLease lease =
          state.acquire({.id = id, .rows = {row, row + 100}, .access = StateAccess::kChange});
      std::ranges::fill(bytes_in(lease.tensor()), static_cast<std::byte>(step));
    }
    state.commit(step);
    EXPECT_EQ(home->traffic().read, 0);
    EXPECT_EQ(home->traffic().written, step / 2 * kBytes) << step;
  }
  // What is asked for is committed, once.
  EXPECT_EQ(testing::newest_record(dir.path())->step, 4);
  ASSERT_TRUE(home->commits().ask());
  state.commit(5);
  EXPECT_FALSE(home->commits().ask());
  EXPECT_EQ(testing::newest_record(dir.path())->step, 5);
  EXPECT_EQ(home->traffic().written, 3 * kBytes);
}

// By the worth of a byte: what passes read, then one kind after another; never more than fits.
TEST(StateCacheTest, TakesOneKindAfterAnother) {
  const TestTable table(kCachedFormats);
  const auto names = [&](bool weights, std::int64_t bytes) {
    std::vector<std::string> names;
    const std::vector<StateId> chosen = choose_cached(*table, 0, weights, bytes);
    EXPECT_LE(cache_bytes(*table, 0, chosen), bytes);
    // Of what they take, the same are chosen.
    EXPECT_EQ(choose_cached(*table, 0, weights, cache_bytes(*table, 0, chosen)), chosen);
    for (const StateId id : chosen) names.push_back(disk_key(*table, (*table)[id]));
    return names;
  };
  EXPECT_TRUE(names(false, 0).empty());
  const std::vector<std::string> all = names(false, kGiB);
  EXPECT_EQ(all.size(), 20u);  // a master and three slots of each of five parameters
  const std::vector<std::string> masters{"matrix/master", "wide/master", "vector/master",
                                         "one/master", "big/master"};
  EXPECT_TRUE(std::equal(masters.begin(), masters.end(), all.begin()));
  EXPECT_EQ(all[5], "matrix/moment");
  // Weights are made of the masters, which passes read then.
  EXPECT_EQ(names(true, kGiB), all);
  EXPECT_EQ(names(false, 32 * kKiB), (std::vector<std::string>{"matrix/master", "wide/master"}));
}

}  // namespace
}  // namespace thimble
