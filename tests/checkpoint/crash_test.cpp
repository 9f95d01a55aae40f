// Saves that die or fail at every point they can. The points are armed once per process, so
// everything that passes one runs in a forked child, and this process starts no thread and does no
// transfer itself.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <functional>

#include "checkpoint/checkpoint_directory.h"
#include "core/base/error.h"
#include "tests/checkpoint/sample_checkpoint.h"
#include "tests/io/in_child.h"

namespace thimble {
namespace {

using testing::holds_sample;
using testing::in_child;
using testing::kBad;
using testing::kGood;
using testing::kKilled;
using testing::kNothingFailed;
using testing::save_sample;
using testing::stream_sample;
using testing::TempDir;

std::vector<std::string> all_points() {
  std::vector<std::string> points(kCheckpointFailpoints.begin(), kCheckpointFailpoints.end());
  points.insert(points.end(), {"io.write", "io.read", "atomic_write.rename"});
  return points;
}

// Block by block nothing is read again.
std::vector<std::string> points_of_streams() {
  std::vector<std::string> points = all_points();
  std::erase(points, "checkpoint.checksum");
  std::erase(points, "io.read");
  return points;
}

struct CrashPoint {
  std::string point;
  bool stream = false;
};

std::vector<CrashPoint> crash_points() {
  std::vector<CrashPoint> all;
  for (const std::string& point : all_points()) all.push_back({point, false});
  for (const std::string& point : points_of_streams()) all.push_back({point, true});
  return all;
}

/// Whether checkpoint 1, or 1 and 2, are there and whole, and nothing else after cleaning up.
int check_state(const std::filesystem::path& dir) {
  const auto engine = make_file_engine();
  remove_stale(dir);
  const auto names = list_checkpoints(dir);
  std::size_t entries = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(dir)) ++entries;
  if (names.empty() || names.size() > 2 || entries != names.size()) return kBad;
  if (names.front().step != 1) return kBad;
  for (const CheckpointName& name : names) {
    if (!holds_sample(CheckpointReader::open(name.path, {*engine, {}}))) return kBad;
  }
  return kGood;
}

class CrashTest : public ::testing::TestWithParam<CrashPoint> {
 protected:
  void SetUp() override {
    ASSERT_EQ(in_child("", [&] { return save(1); }), kGood);
  }
  int save(std::int64_t step) const {
    const auto engine = make_file_engine({.queue_depth = 2});
    (GetParam().stream ? stream_sample : save_sample)(dir_.path(), *engine, step);
    return kGood;
  }

  TempDir dir_;
};

TEST_P(CrashTest, KilledAtEveryPassage) {
  int hit = 1;
  for (; hit < 1000; ++hit) {
    const int result =
        in_child(fmt::format("{}:{}:kill", GetParam().point, hit), [&] { return save(2); });
    ASSERT_EQ(in_child("", [&] { return check_state(dir_.path()); }), kGood)
        << GetParam().point << " " << hit;
    if (result != kKilled) {
      ASSERT_EQ(result, kGood);
      break;
    }
    remove_tree(dir_ / "ckpt-2");
  }
  EXPECT_GT(hit, 1) << "the point was never passed";
}

TEST_P(CrashTest, FailedAtEveryPassage) {
  int hit = 1;
  for (; hit < 1000; ++hit) {
    const char* action = hit % 2 == 0 ? "eio" : "enospc";
    const int result = in_child(fmt::format("{}:{}:{}", GetParam().point, hit, action), [&] {
      try {
        save(2);
        return kNothingFailed;
      } catch (const SystemError&) {
        return std::filesystem::exists(dir_ / "ckpt-2.tmp") ? kBad : kGood;
      }
    });
    ASSERT_EQ(in_child("", [&] { return check_state(dir_.path()); }), kGood)
        << GetParam().point << " " << hit;
    if (result == kNothingFailed) break;
    ASSERT_EQ(result, kGood) << GetParam().point << " " << hit;
    remove_tree(dir_ / "ckpt-2");
  }
  EXPECT_GT(hit, 1) << "the point was never passed";
}

INSTANTIATE_TEST_SUITE_P(Points, CrashTest, ::testing::ValuesIn(crash_points()),
                         [](const auto& info) {
                           std::string name =
                               info.param.point + (info.param.stream ? "_streamed" : "");
                           for (char& c : name) c = c == '.' ? '_' : c;
                           return name;
                         });

TEST(Replacement, KilledAroundThePublicationOfTheSameStep) {
  const TempDir dir;
  const auto save = [&] {
    const auto engine = make_file_engine();
    save_sample(dir.path(), *engine, 1);
    return kGood;
  };
  ASSERT_EQ(in_child("", save), kGood);
  for (const char* point : {"checkpoint.sync:2", "atomic_write.rename:1", "checkpoint.publish:1",
                            "checkpoint.publish:2"}) {
    EXPECT_EQ(in_child(fmt::format("{}:kill", point), save), kKilled);
    EXPECT_EQ(in_child("", [&] { return check_state(dir.path()); }), kGood) << point;
  }
}

TEST(RefusedBySystem, AFileThatMayNotGrowLeavesTheOldCheckpoint) {
  const TempDir dir;
  ASSERT_EQ(in_child("",
                     [&] {
                       const auto engine = make_file_engine();
                       save_sample(dir.path(), *engine, 1);
                       return kGood;
                     }),
            kGood);
  for (const rlim_t limit : {100, 5000, 20'000}) {
    const int result = in_child("", [&] {
      std::signal(SIGXFSZ, SIG_IGN);
      const rlimit small{limit, limit};
      ::setrlimit(RLIMIT_FSIZE, &small);
      const auto engine = make_file_engine();
      try {
        save_sample(dir.path(), *engine, 2);
        return kNothingFailed;
      } catch (const SystemError&) {
        return std::filesystem::exists(dir / "ckpt-2.tmp") ? kBad : kGood;
      }
    });
    EXPECT_EQ(result, kGood) << limit;
    EXPECT_EQ(in_child("", [&] { return check_state(dir.path()); }), kGood) << limit;
  }
}

}  // namespace
}  // namespace thimble
