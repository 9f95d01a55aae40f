#include "offload/ring.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "core/base/error.h"

namespace thimble {
namespace {

TEST(RingTest, GivesWhatFitsBehindTheLast) {
  Ring ring(100);
  EXPECT_EQ(ring.take(101), std::nullopt);
  EXPECT_EQ(ring.take(100), 0);
  EXPECT_EQ(ring.take(1), std::nullopt);
  ring.give_back(0);
  EXPECT_EQ(ring.take(40), 0);
  EXPECT_EQ(ring.take(40), 40);
  EXPECT_EQ(ring.take(21), std::nullopt) << "neither behind the last nor before the first";
  ring.give_back(0);
  EXPECT_EQ(ring.take(21), 0) << "round the end";
  EXPECT_EQ(ring.take(20), std::nullopt);
  EXPECT_EQ(ring.take(19), 21);
  ring.give_back(40);
  EXPECT_EQ(ring.take(60), 40);
  EXPECT_EQ(ring.take(1), std::nullopt);
}

TEST(RingTest, WhatIsGivenBackInTheMiddleIsFreeWhenItsNeighboursAre) {
  Ring ring(90);
  ASSERT_EQ(ring.take(30), 0);
  ASSERT_EQ(ring.take(30), 30);
  ASSERT_EQ(ring.take(30), 60);
  ring.give_back(30);
  EXPECT_EQ(ring.take(1), std::nullopt);
  ring.give_back(60);
  EXPECT_EQ(ring.take(60), 30);
  ring.give_back(0);
  EXPECT_EQ(ring.take(30), 0);
}

TEST(RingTest, NothingComesBackTwice) {
  Ring ring(90);
  EXPECT_THROW(ring.give_back(0), LogicError);
  ASSERT_EQ(ring.take(30), 0);
  ASSERT_EQ(ring.take(30), 30);
  ASSERT_EQ(ring.take(30), 60);
  EXPECT_THROW(ring.give_back(1), LogicError);
  ring.give_back(30);
  EXPECT_THROW(ring.give_back(30), LogicError);
}

TEST(RingTest, RandomStretchesNeverOverlap) {
  std::mt19937 random(1);
  for (int round = 0; round < 20; ++round) {
    const std::int64_t capacity = 64 + static_cast<std::int64_t>(random() % 1000);
    Ring ring(capacity);
    std::map<std::int64_t, std::int64_t> taken;  // begin -> end
    for (int i = 0; i < 2000; ++i) {
      const auto bytes = 1 + static_cast<std::int64_t>(random() % 200);
      if (const auto begin = ring.take(bytes)) {
        EXPECT_TRUE(*begin >= 0 && *begin + bytes <= capacity);
        const auto behind = taken.lower_bound(*begin);
        EXPECT_TRUE(behind == taken.end() || behind->first >= *begin + bytes);
        EXPECT_TRUE(behind == taken.begin() || std::prev(behind)->second <= *begin);
        taken[*begin] = *begin + bytes;
      } else {
        EXPECT_FALSE(taken.empty() && bytes <= capacity);
      }
      while (!taken.empty() && random() % 3 == 0) {
        const auto one = std::next(taken.begin(), static_cast<long>(random() % taken.size()));
        ring.give_back(one->first);
        taken.erase(one);
      }
    }
    for (const auto& [begin, end] : taken) ring.give_back(begin);
    EXPECT_EQ(ring.take(capacity), 0);
  }
}

// Stretches that are in use at the same time and taken one after another find room in three times
// their size, whatever went before.
TEST(RingTest, ThreeTimesWhatIsInUseIsEnough) {
  std::mt19937 random(2);
  for (int round = 0; round < 50; ++round) {
    Ring ring(300);
    for (int i = 0; i < 500; ++i) {
      std::vector<std::int64_t> together;
      for (std::int64_t left = 100; left > 0;) {
        const auto bytes = 1 + static_cast<std::int64_t>(random()) % left;
        const auto begin = ring.take(bytes);
        ASSERT_TRUE(begin.has_value()) << bytes;
        together.push_back(*begin);
        left -= bytes;
      }
      std::shuffle(together.begin(), together.end(), random);
      for (const std::int64_t begin : together) ring.give_back(begin);
    }
  }
}

}  // namespace
}  // namespace thimble
