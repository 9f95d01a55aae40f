#include "core/base/threads.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

namespace thimble {
namespace {

class ParallelFor : public ::testing::Test {
 protected:
  ParallelFor() { set_team_threads(4); }
  ~ParallelFor() override { set_team_threads(0); }
};

// How often each item was visited.
std::vector<int> visits(std::int64_t items, std::int64_t cost) {
  std::vector<int> seen(static_cast<std::size_t>(items), 0);
  parallel_for(items, cost, [&](std::int64_t begin, std::int64_t end) {
    EXPECT_LE(0, begin);
    EXPECT_LT(begin, end);
    EXPECT_LE(end, items);
    for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
  });
  return seen;
}

TEST_F(ParallelFor, EveryItemOnce) {
  for (const std::int64_t items : {0, 1, 2, 63, 64, 65, 1000, 65537, 1000003}) {
    for (const std::int64_t cost : {0, 1, 7, 100, 32768, 1000000}) {
      const std::vector<int> expected(static_cast<std::size_t>(items), 1);
      EXPECT_EQ(visits(items, cost), expected) << items << " items of " << cost;
    }
  }
}

TEST_F(ParallelFor, ManyLoopsOneAfterTheOther) {
  for (int round = 0; round < 20000; ++round) {
    std::atomic<std::int64_t> sum{0};
    parallel_for_each(7, 1000000, [&](std::int64_t i) { sum += i; });
    ASSERT_EQ(sum, 21) << round;
  }
}

TEST_F(ParallelFor, SeveralThreadsWork) {
  std::atomic<int> arrived{0};
  parallel_for_each(2, 1000000, [&](std::int64_t) {
    ++arrived;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (arrived < 2 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  });
  EXPECT_EQ(arrived, 2);
}

TEST_F(ParallelFor, IndexesAreTheTeams) {
  std::vector<std::atomic<int>> busy(4);
  std::atomic<bool> shared{false};
  for (int round = 0; round < 200; ++round) {
    parallel_for_each(64, 1000000, [&](std::int64_t) {
      const auto index = static_cast<std::size_t>(team_index());
      ASSERT_LT(index, busy.size());
      if (busy[index].fetch_add(1) != 0) shared = true;
      std::this_thread::yield();
      --busy[index];
    });
  }
  EXPECT_FALSE(shared);
}

TEST_F(ParallelFor, FewerThreadsAreKeptTo) {
  visits(1000000, 1);  // 4 exist from now on
  set_team_threads(2);
  for (int round = 0; round < 200; ++round) {
    parallel_for_each(16, 1000000, [&](std::int64_t) { EXPECT_LT(team_index(), 2); });
  }
}

TEST_F(ParallelFor, LittleWorkAndOneThreadStayOnTheCaller) {
  const auto own = std::this_thread::get_id();
  parallel_for(65536, 1,
               [&](std::int64_t, std::int64_t) { EXPECT_EQ(std::this_thread::get_id(), own); });
  set_team_threads(1);
  parallel_for(1 << 20, 1,
               [&](std::int64_t, std::int64_t) { EXPECT_EQ(std::this_thread::get_id(), own); });
}

TEST_F(ParallelFor, InsideOfALoopIsOnItsOwnThread) {
  parallel_for_each(8, 1000000, [&](std::int64_t) {
    const auto own = std::this_thread::get_id();
    EXPECT_EQ(team_threads(), 1);
    parallel_for(1 << 20, 1,
                 [&](std::int64_t, std::int64_t) { EXPECT_EQ(std::this_thread::get_id(), own); });
  });
  EXPECT_EQ(team_threads(), 4);
}

TEST_F(ParallelFor, AnExceptionReachesTheCaller) {
  for (int round = 0; round < 100; ++round) {
    try {
      parallel_for_each(100, 1000000, [&](std::int64_t i) {
        if (i == 57) throw std::runtime_error("57");
      });
      ADD_FAILURE() << "nothing thrown";
    } catch (const std::runtime_error& e) {
      EXPECT_STREQ(e.what(), "57");
    }
  }
  EXPECT_EQ(visits(1000, 1000), std::vector<int>(1000, 1));
}

TEST_F(ParallelFor, CallersOnManyThreads) {
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 8; ++t) {
    callers.emplace_back([&] {
      set_team_threads(3);
      for (int round = 0; round < 500; ++round) {
        if (visits(5000, 100) != std::vector<int>(5000, 1)) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace thimble
