// A run that dies or fails at every point it can. The points are armed once per process, so all
// that passes one runs in a forked child, and this process starts no thread and moves nothing.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdlib>
#include <fstream>

#include "tests/io/in_child.h"
#include "tests/offload/disk_of_tests.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using testing::Bytes;
using testing::DiskSetup;
using testing::in_child;
using testing::kBad;
using testing::kGood;
using testing::kKilled;
using testing::kNothingFailed;
using testing::TempDir;
using testing::TestDisk;

enum Key { kSmall, kBlock, kLong, kLate, kOne };

// Little, but the long one lies where a run of its file ends and another begins.
std::vector<testing::TestArray> crash_arrays() {
  return {{"small", 4096, {5000}},
          {"block", 12'288, {4096}},
          {"long", kRunBytes - 8192, {20'000}},
          {"late", kRunBytes + 12'288, {3000}},
          {"one", kRunBytes + 16'384, {1}}};
}

/// What a run of a few steps does, to a disk and to plain memory or to that alone.
class Script {
 public:
  static constexpr std::int64_t kSteps = 5;

  explicit Script(TestDisk* disk) : disk_(disk), contents_(crash_arrays().size()) {}
  void set_disk(TestDisk* disk) { disk_ = disk; }

  void step(std::int64_t number) {
    if (number == 1) {
      for (const Key key : {kSmall, kBlock, kLong, kOne}) create(key);
      write(kLong, 100, 8200, 7);
    }
    if (number == 2) create(kLate);
    if (number == 2 || number == 5) {  // its bytes are committed until this step is
      erase(kSmall);
      create(kSmall);
    }
    if (number == 4) erase(kBlock);
    if (number == 5) create(kBlock);
    std::mt19937_64 random(static_cast<std::uint64_t>(number));
    for (const Key key : {kSmall, kBlock, kLong, kLate, kOne}) {
      if (!contents_[key]) continue;
      const std::size_t size = contents_[key]->size();
      for (int i = 0; i < 2; ++i) {
        const std::size_t a = random() % (size + 1), b = random() % (size + 1);
        write(key, static_cast<std::int64_t>(std::min(a, b)),
              static_cast<std::int64_t>(std::max(a, b)), random());
      }
    }
  }
  void steps_to(std::int64_t last) {
    for (std::int64_t number = 1; number <= last; ++number) step(number);
  }
  const std::vector<std::optional<Bytes>>& contents() const { return contents_; }

  void expect_on_disk(TestDisk& disk) const {
    for (std::size_t key = 0; key < contents_.size(); ++key) {
      if (!contents_[key]) continue;
      const auto size = static_cast<std::int64_t>(contents_[key]->size());
      if (disk.read(static_cast<int>(key), 0, size) != *contents_[key])
        throw_system("key {} is not what was committed", key);
    }
  }

 private:
  void create(Key key) {
    if (disk_ != nullptr) (*disk_)->create(key);
    contents_[key].emplace(static_cast<std::size_t>(crash_arrays()[key].bytes_of(0)));
  }
  void erase(Key key) {
    if (disk_ != nullptr) (*disk_)->erase(key);
    contents_[key].reset();
  }
  void write(Key key, std::int64_t begin, std::int64_t end, std::uint64_t seed) {
    const Bytes bytes = testing::many_random_bytes(static_cast<std::size_t>(end - begin), seed);
    if (disk_ != nullptr) disk_->write(key, begin, bytes);
    std::copy(bytes.begin(), bytes.end(), contents_[key]->begin() + begin);
  }

  TestDisk* disk_;
  std::vector<std::optional<Bytes>> contents_;
};

/// A run in a directory, which goes on where an earlier one was.
class CrashRun {
 public:
  CrashRun(fs::path directory, int slots)
      : setup_({.directory = std::move(directory), .arrays = crash_arrays(), .slots = slots}) {}

  /// To the end. Throws if the state that it finds is not that of the last committed step.
  void go() {
    TestDisk disk(setup_);
    Script script(nullptr);
    std::int64_t step = 0;
    const std::optional<CommitRecord> record = testing::newest_record(setup_.directory);
    if (record && record->torn && setup_.slots == 1) {
      const std::string why =
          testing::message_of<UserError>([&] { TestDisk(setup_)->recover(*record); });
      TH_CHECK(why.find("was changing the state in place") != why.npos, "{}", why);
      fs::remove(setup_.directory / "link");
      fs::remove(done_path());
    }
    if (record && !record->torn) {
      TH_CHECK(record->step == done() || record->step == done() + 1, "step {} after {}",
               record->step, done());
      disk->recover(*record);
      step = record->step;
      script.steps_to(step);
      script.expect_on_disk(disk);
      after(disk, step);
    } else {
      TH_CHECK(done() == 0, "step {} is gone", done());
      disk->start_new();
    }
    script.set_disk(&disk);
    for (++step; step <= Script::kSteps; ++step) {
      script.step(step);
      disk->commit(step, "");
      std::ofstream(done_path()) << step;
      after(disk, step);
    }
    script.expect_on_disk(disk);
    TH_CHECK(testing::state_files(setup_.directory).size() <= 3);
  }

 private:
  fs::path done_path() const { return setup_.directory / "done"; }
  std::int64_t done() const {
    std::ifstream file(done_path());
    std::int64_t step = 0;
    file >> step;
    return step;
  }

  // The state of step 2 is a checkpoint until step 4.
  void after(TestDisk& disk, std::int64_t step) const {
    const fs::path link = setup_.directory / "link";
    if (step == 2 && !fs::exists(link)) {
      const int file = disk->gather_in_one_file();
      fs::create_hard_link(disk->files().path(file), link);
      disk->settle_files();
    }
    if (fs::exists(link)) expect_checkpoint(link);
    if (step == 4) {
      fs::remove(link);
      disk->settle_files();
    }
  }
  static void expect_checkpoint(const fs::path& link) {
    Script second(nullptr);
    second.steps_to(2);
    const File file = File::open_read(link);
    for (std::size_t key = 0; key < second.contents().size(); ++key) {
      const Bytes& wanted = *second.contents()[key];
      Bytes bytes(wanted.size());
      file.read_at(crash_arrays()[key].offset, bytes);
      TH_CHECK(bytes == wanted, "key {} of the checkpoint has changed", key);
    }
  }

  DiskSetup setup_;
};

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
    CrashRun(directory, GetParam().slots).go();
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
        CrashRun(directory, GetParam().slots).go();
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
                             CrashRun(dir.path(), slots).go();
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
    disk->create(kLong);
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{kRunBytes, kRunBytes};
    ::setrlimit(RLIMIT_FSIZE, &small);
    disk.write(kLong, 0, Bytes(20'000));
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
