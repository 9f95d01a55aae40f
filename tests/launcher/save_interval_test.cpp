#include "launcher/trainer/save_interval.h"

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace thimble {
namespace {

TEST(SaveInterval, IsYoungsSquareRoot) {
  SaveInterval interval(24);
  EXPECT_EQ(interval.steps(), SaveInterval::kFirstSteps);
  interval.note_step(0.2);
  EXPECT_EQ(interval.steps(), SaveInterval::kFirstSteps);
  EXPECT_FALSE(interval.is_measured());
  interval.note_save(0.5);
  // sqrt(2 * 0.5 s * 86400 s) = 293.94 s of 0.2 s each.
  EXPECT_TRUE(interval.is_measured());
  EXPECT_EQ(interval.steps(), 1470);
  EXPECT_EQ(interval.text(),
            "a save takes 0.5 s and a step 0.2 s; with a failure every 24 h, saving every 1470 "
            "steps (4 min 54 s) loses the least time, 0.34 % of it");
  // Means: 0.1 s a step, 2 s a save.
  interval.note_step(0.0);
  interval.note_save(3.5);
  EXPECT_EQ(interval.steps(), 5879);
}

TEST(SaveInterval, IsNeverLessThanAStepNorMoreThanIsCounted) {
  SaveInterval slow(0.001);
  slow.note_step(1000);
  slow.note_save(0.001);
  EXPECT_EQ(slow.steps(), 1);
  SaveInterval stopped(24);
  stopped.note_step(0);
  stopped.note_save(1);
  EXPECT_EQ(stopped.steps(), SaveInterval::kFirstSteps);
  SaveInterval nothing(24);
  nothing.note_step(0);
  nothing.note_save(0);
  EXPECT_EQ(nothing.steps(), SaveInterval::kFirstSteps);
  EXPECT_THROW(SaveInterval(0), LogicError);
}

}  // namespace
}  // namespace thimble
