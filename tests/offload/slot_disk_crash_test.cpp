// A run that dies or fails at every point it can. The points are armed once per process, so all
// that passes one runs in a forked child, and this process starts no thread and moves nothing.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdlib>

#include "tests/io/in_child.h"
#include "tests/offload/crash_run.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using testing::Bytes;
using testing::crash_arrays;
using testing::CrashRun;
using testing::in_child;
using testing::kBad;
using testing::kGood;
using testing::kKilled;
using testing::kNothingFailed;
using testing::TempDir;
using testing::TestDisk;

struct CrashWay {
  const char* point;
  int slots;
  bool in_memory;
  int stride = 1;  // of the passages that are tried
};

class SlotDiskCrashTest : public ::testing::TestWithParam<CrashWay> {
 protected:
  // Calls `body` with every passage in turn and a new directory, until it says that none was left.
  void at_every_passage(const std::function<bool(int hit, const fs::path& directory)>& body) {
    int hit = 1;
    for (; hit < 10'000; hit += GetParam().stride) {
      const TempDir dir;
      const testing::MemoryDir memory;
      if (!body(hit, GetParam().in_memory ? memory.path() : dir.path())) break;
      if (HasFailure()) return;
    }
    EXPECT_GT(hit, 1) << "the point was never passed";
    EXPECT_LT(hit, 10'000);
  }
  std::string armed(int hit, std::string_view action) const {
    return fmt::format("{}:{}:{}", GetParam().point, hit, action);
  }
  int go_on(const fs::path& directory) const {
    CrashRun(CrashRun::setup_in(directory, GetParam().slots)).go();
    return kGood;
  }
};

TEST_P(SlotDiskCrashTest, KilledAtEveryPassage) {
  at_every_passage([&](int hit, const fs::path& directory) {
    const int result = in_child(armed(hit, "kill"), [&] { return go_on(directory); });
    EXPECT_EQ(in_child("", [&] { return go_on(directory); }), kGood)
        << GetParam().point << " " << hit;
    EXPECT_TRUE(result == kKilled || result == kGood) << result;
    return result == kKilled;
  });
}

TEST_P(SlotDiskCrashTest, FailedAtEveryPassage) {
  at_every_passage([&](int hit, const fs::path& directory) {
    const int result = in_child(armed(hit, hit % 2 == 0 ? "eio" : "enospc"), [&] {
      try {
        CrashRun(CrashRun::setup_in(directory, GetParam().slots)).go();
        return kNothingFailed;
      } catch (const SystemError& error) {
        if (std::string_view(error.what()).find("failpoint") == std::string_view::npos) throw;
      }
      return go_on(directory);  // in the same process
    });
    EXPECT_TRUE(result == kNothingFailed || result == kGood) << GetParam().point << " " << hit;
    return result != kNothingFailed;
  });
}

std::string name_of_crash_way(const ::testing::TestParamInfo<CrashWay>& info) {
  std::string name = fmt::format("{}_{}Slots{}", info.param.point,
                                 info.param.in_memory ? "Cached" : "Direct", info.param.slots);
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(
    Points, SlotDiskCrashTest,
    ::testing::Values(CrashWay{"io.read", 2, true, 4}, CrashWay{"io.write", 2, true, 5},
                      CrashWay{"offload.sync", 2, true}, CrashWay{"offload.record", 2, true},
                      CrashWay{"atomic_write.rename", 2, true}, CrashWay{"io.read", 1, true, 6},
                      CrashWay{"io.write", 1, true, 5}, CrashWay{"offload.sync", 1, true},
                      CrashWay{"offload.record", 1, true}, CrashWay{"atomic_write.rename", 1, true},
                      CrashWay{"io.write", 2, false, 16}, CrashWay{"offload.record", 2, false, 5}),
    name_of_crash_way);

TEST(SlotDiskShort, TransfersThatAreCutGoOn) {
  for (const int slots : {1, 2}) {
    for (const char* point : {"io.read", "io.write"}) {
      for (int hit = 1; hit <= 60; hit += 10) {
        const TempDir dir;
        EXPECT_EQ(in_child(fmt::format("{}:{}:short", point, hit),
                           [&] {
                             CrashRun(CrashRun::setup_in(dir.path(), slots)).go();
                             return kGood;
                           }),
                  kGood)
            << point << " " << hit;
      }
    }
  }
}

// What the system itself refuses names the file and the bytes.
TEST(SlotDiskRefused, AFileThatMayNotGrowIsNamed) {
  const testing::MemoryDir dir;
  const auto write = [&] {
    TestDisk disk({.directory = dir.path(), .arrays = crash_arrays()});
    disk->start_new();
    disk->create(testing::kLong);
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{kRunBytes, kRunBytes};
    ::setrlimit(RLIMIT_FSIZE, &small);
    disk.write(testing::kLong, 0, Bytes(20'000));
  };
  EXPECT_EQ(in_child("",
                     [&] {
                       const std::string why = testing::message_of<SystemError>(write),
                                         file = (dir.path() / "state-0.h5").string();
                       const bool named = why.find(file + ": cannot write") != why.npos &&
                                          why.find("bytes at byte") != why.npos;
                       if (!named) throw_system("{}", why);
                       return kGood;
                     }),
            kGood);
}

}  // namespace
}  // namespace thimble
