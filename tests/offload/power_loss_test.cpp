// A state on disk after the power went at any moment: the step that was promised last, or the one
// under way, is there whole.
#include <gtest/gtest.h>

#include "tests/io/in_child.h"
#include "tests/offload/crash_run.h"
#include "tests/offload/file_log.h"

namespace thimble {
namespace {

using testing::CrashRun;
using testing::DiskSetup;
using testing::FileLog;
using testing::FileOperation;
using testing::kGood;
using testing::MemoryDir;

// What a whole run does. It leaves no thread behind, so that children can be forked after it.
std::vector<FileOperation> operations_of_run(int slots) {
  const MemoryDir dir;
  DiskSetup setup = CrashRun::setup_in(dir.path(), slots);
  setup.engine = FileEngineKind::kThreads;
  FileLog log(dir.path());
  CrashRun(setup, [&](std::int64_t step) { log.promise(step); }).go();
  return log.operations();
}

// Goes on in what is left of the first operations.
int result_after(std::span<const FileOperation> done, int slots, std::uint64_t seed) {
  const MemoryDir dir;
  CrashRun::set_done(dir.path(), testing::make_after_power_loss(done, seed, dir.path()));
  return testing::in_child("", [&] {
    CrashRun(CrashRun::setup_in(dir.path(), slots)).go();
    return kGood;
  });
}

class PowerLossTest : public ::testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(PowerLossTest, AtEveryMomentTheLastCommittedStepIsWhole) {
  const auto [slots, stride] = GetParam();
  const std::vector<FileOperation> all = operations_of_run(slots);
  ASSERT_GT(all.size(), 100u);
  for (std::size_t done = 0; done <= all.size(); done += static_cast<std::size_t>(stride)) {
    for (std::uint64_t seed = 0; seed < (stride == 1 ? 4u : 1u); ++seed) {
      ASSERT_EQ(result_after(std::span(all).first(done), slots, done * 100 + seed), kGood)
          << "after " << done << " of " << all.size() << " operations, seed " << seed;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Some, PowerLossTest,
                         ::testing::Combine(::testing::Values(1, 2), ::testing::Values(7)));
INSTANTIATE_TEST_SUITE_P(Every, PowerLossTest,
                         ::testing::Combine(::testing::Values(1, 2), ::testing::Values(1)));

// The model of a disk would notice if files or names were not made durable.
TEST(PowerLossModel, WithoutSyncsStepsAreLost) {
  for (const auto kind : {FileOperation::Kind::kSync, FileOperation::Kind::kSyncDirectory}) {
    std::vector<FileOperation> all = operations_of_run(2);
    std::erase_if(all, [&](const FileOperation& o) { return o.kind == kind; });
    int lost = 0;
    for (std::size_t done = all.size() / 2; done <= all.size() && lost == 0; done += 3)
      lost += result_after(std::span(all).first(done), 2, done) == kGood ? 0 : 1;
    EXPECT_GT(lost, 0) << static_cast<int>(kind);
  }
}

}  // namespace
}  // namespace thimble
