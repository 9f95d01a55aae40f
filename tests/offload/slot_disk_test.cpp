// The disk against plain memory, in random sequences of all that can be done to it.
#include "offload/slot_disk.h"

#include <gtest/gtest.h>

#include "tests/offload/disk_of_tests.h"
#include "tests/offload/rank_meeting.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using testing::Bytes;
using testing::DiskSetup;
using testing::Meeting;
using testing::TempDir;
using testing::TestDisk;

// What the disk must hold, of one rank: by key, none where it is not kept.
using Contents = std::vector<std::optional<Bytes>>;

// A file that was given another name, and what it held.
struct Link {
  fs::path path;
  Bytes bytes;
};

/// One rank's disk and its model, and random things done to both.
class RandomRank {
 public:
  RandomRank(const DiskSetup& setup, unsigned seed)
      : setup_(setup), random_(seed), now_(setup.arrays.size()) {
    open();
    disk()->start_new();
  }

  void change() {
    const int key = static_cast<int>(random_() % now_.size());
    std::optional<Bytes>& bytes = now_[static_cast<std::size_t>(key)];
    if (!bytes || random_() % 12 == 0) {
      disk()->create(key);
      bytes.emplace(static_cast<std::size_t>(
          setup_.arrays[static_cast<std::size_t>(key)].bytes_of(setup_.rank)));
      return;
    }
    if (random_() % 25 == 0) {
      disk()->erase(key);
      bytes.reset();
      return;
    }
    const auto [begin, end] = some_range(*bytes);
    if (random_() % 3 == 0) {
      expect_equal(key, begin, end);
      return;
    }
    Bytes written = testing::many_random_bytes(end - begin, random_());
    disk().write(key, static_cast<std::int64_t>(begin), written);
    std::copy(written.begin(), written.end(), bytes->begin() + static_cast<std::ptrdiff_t>(begin));
  }

  void commit(std::int64_t step) {
    disk()->commit(step, fmt::format("note {}", step));
    committed_ = now_;
    step_ = step;
    expect_all();
  }

  /// All of the state is in one file, whose bytes follow from its runs.
  int gather_in_one_file() {
    const int file = disk()->gather_in_one_file();
    std::int64_t bytes = 0, wanted = 0;
    for (const ChecksumRun& run : disk()->runs_of_file(file)) bytes += run.end - run.begin;
    for (const auto& kept : now_) wanted += kept ? static_cast<std::int64_t>(kept->size()) : 0;
    EXPECT_EQ(bytes, wanted);
    expect_all();
    return file;
  }

  /// As after a crash: what was not committed is gone.
  void reopen() {
    disk_.reset();
    open();
    const auto record = testing::newest_record(setup_.directory, setup_.rank);
    ASSERT_TRUE(record.has_value());
    EXPECT_EQ(record->step, step_);
    EXPECT_EQ(record->note, fmt::format("note {}", step_));
    ASSERT_FALSE(record->torn);
    disk()->recover(*record);
    now_ = committed_;
    expect_all();
  }

  void expect_all() {
    for (std::size_t key = 0; key < now_.size(); ++key) {
      if (now_[key]) expect_equal(static_cast<int>(key), 0, now_[key]->size());
    }
  }

  /// Whether the rank's part of a whole file of state is what was committed.
  void expect_in_file(const Bytes& file) const {
    for (std::size_t key = 0; key < committed_.size(); ++key) {
      if (!committed_[key]) continue;
      const testing::TestArray& array = setup_.arrays[key];
      const auto at = static_cast<std::size_t>(array.offset + array.begin_of(setup_.rank));
      ASSERT_LE(at + committed_[key]->size(), file.size());
      EXPECT_TRUE(testing::same_bytes(std::span(file).subspan(at, committed_[key]->size()),
                                      *committed_[key]))
          << array.name;
    }
  }

  TestDisk& disk() { return *disk_; }

 private:
  void open() { disk_ = std::make_unique<TestDisk>(setup_); }

  // Often all, often at edges of blocks and of runs, else anything.
  std::pair<std::size_t, std::size_t> some_range(const Bytes& bytes) {
    if (random_() % 4 == 0) return {0, bytes.size()};
    const auto edge = [&]() -> std::size_t {
      const std::array<std::size_t, 3> units{1, 4096, static_cast<std::size_t>(kRunBytes)};
      const std::size_t unit = units[random_() % 3];
      return std::min(bytes.size(), random_() % (bytes.size() / unit + 1) * unit + random_() % 2);
    };
    const std::size_t a = edge(), b = edge();
    return {std::min(a, b), std::max(a, b)};
  }

  void expect_equal(int key, std::size_t begin, std::size_t end) {
    const std::span<const std::byte> wanted =
        std::span<const std::byte>(*now_[static_cast<std::size_t>(key)])
            .subspan(begin, end - begin);
    EXPECT_TRUE(testing::same_bytes(
        disk().read(key, static_cast<std::int64_t>(begin), static_cast<std::int64_t>(end)), wanted))
        << "key " << key << ", bytes " << begin << " to " << end << ", rank " << setup_.rank;
  }

  DiskSetup setup_;
  std::mt19937_64 random_;
  Contents now_, committed_;
  std::int64_t step_ = -1;
  std::unique_ptr<TestDisk> disk_;
};

/// Links of the directory's files, as checkpoints are. Their bytes must never change.
class Links {
 public:
  explicit Links(fs::path directory) : directory_(std::move(directory)) {}

  const Bytes& add(const fs::path& file) {
    const fs::path path = directory_ / fmt::format("link-{}", made_++);
    fs::create_hard_link(file, path);
    links_.push_back({path, testing::bytes_of_file(path)});
    return links_.back().bytes;
  }
  void remove(std::size_t index) {
    check();
    fs::remove(links_[index % links_.size()].path);
    links_.erase(links_.begin() + static_cast<std::ptrdiff_t>(index % links_.size()));
  }
  void check() const {
    for (const Link& link : links_)
      EXPECT_TRUE(testing::bytes_of_file(link.path) == link.bytes) << link.path;
  }
  std::size_t count() const { return links_.size(); }

 private:
  fs::path directory_;
  std::vector<Link> links_;
  int made_ = 0;
};

// Files are those that may be written, and those with another name.
void expect_few_files(const fs::path& directory, int slots, std::size_t links) {
  EXPECT_LE(testing::state_files(directory).size(), static_cast<std::size_t>(slots) + 1 + links);
}

std::vector<testing::TestArray> odd_arrays() {
  return testing::arrays_of_sizes({{"none", 0},
                                   {"one", 1},
                                   {"less", 4095},
                                   {"block", 4096},
                                   {"more", 4097},
                                   {"two", 8191},
                                   {"run", kRunBytes},
                                   {"long", kRunBytes + 5000},
                                   {"odd", 30'001}});
}

struct Way {
  bool in_memory;
  FileEngineKind engine;
  int slots;
};

class SlotDiskTest : public ::testing::TestWithParam<Way> {
 protected:
  DiskSetup setup(std::vector<testing::TestArray> arrays) const {
    return {.directory = GetParam().in_memory ? memory_.path() : dir_.path(),
            .arrays = std::move(arrays),
            .slots = GetParam().slots,
            .engine = GetParam().engine};
  }

 private:
  TempDir dir_;
  testing::MemoryDir memory_;
};

TEST_P(SlotDiskTest, IsAsPlainMemory) {
  for (const unsigned seed : {1u, 2u}) {
    const DiskSetup setup = this->setup(odd_arrays());
    RandomRank rank(setup, seed);
    Links links(setup.directory);
    std::mt19937_64 random(seed + 100);
    rank.commit(0);
    for (std::int64_t step = 1; step <= 12; ++step) {
      for (std::uint64_t n = random() % 12; n > 0; --n) rank.change();
      const std::uint64_t now = random() % 8;
      // With one slot a step that began and did not end has no state.
      if (setup.slots == 2 && now == 0) rank.reopen();
      rank.commit(step);
      if (now == 1 || now == 2) {
        const int file = rank.gather_in_one_file();
        rank.expect_in_file(links.add(rank.disk()->files().path(file)));
        rank.disk()->settle_files();
      }
      if (now == 3 && links.count() > 0) links.remove(random());
      if (now == 4) rank.reopen();
      links.check();
      expect_few_files(setup.directory, setup.slots, links.count());
    }
    rank.reopen();
    links.check();
    for (const auto& entry : fs::directory_iterator(setup.directory)) fs::remove(entry.path());
  }
}

// What lies on which disk is known from the first start on, whatever disks are given later.
TEST(SlotDiskDisks, SeveralAreAsOne) {
  for (const int slots : {1, 2}) {
    const TempDir first, second, third;
    const DiskSetup setup{.directory = first.path(),
                          .arrays = odd_arrays(),
                          .slots = slots,
                          .more = {second.path(), third.path()}};
    {
      RandomRank rank(setup, 5);
      std::mt19937_64 random(6);
      rank.commit(0);
      for (std::int64_t step = 1; step <= 8; ++step) {
        for (std::uint64_t n = random() % 12; n > 0; --n) rank.change();
        if (slots == 2 && random() % 4 == 0) rank.reopen();
        rank.commit(step);
        if (random() % 4 == 0) rank.reopen();
        for (const TempDir* dir : {&first, &second, &third})
          expect_few_files(dir->path(), slots, 0);
      }
    }
    const CommitRecord record = *testing::newest_record(first.path());
    DiskSetup other = setup;
    other.more = {second.path()};
    EXPECT_THROWS_WITH(UserError, "state lies on 'disk-2' too, and there are only 2 disks",
                       TestDisk(other)->recover(record));
    other.more = {third.path(), second.path()};
    EXPECT_THROWS_WITH(UserError, ".disk-1: state lies in the file, and it is gone",
                       TestDisk(other)->recover(record));
    other.more = setup.more;
    TestDisk(other)->recover(record);
  }
}

// Parts end in the middle of blocks, which two ranks or all of them share.
std::vector<testing::TestArray> shared_arrays() {
  return testing::arrays_of({{"tiny", {1, 2, 3}},
                             {"empty in the middle", {5000, 5000, 9000}},
                             {"blocks", {4096, 8192, 12'288}},
                             {"odd", {10'001, 14'000, 30'003}},
                             {"runs", {kRunBytes - 17, kRunBytes + 3, 2 * kRunBytes + 1}},
                             {"last", {0, 0, 77}}});
}

TEST_P(SlotDiskTest, RanksShareAFile) {
  constexpr int kRanks = 3;
  const DiskSetup shared = setup(shared_arrays());
  Meeting meeting(kRanks);
  Links links(shared.directory);
  testing::run_ranks(kRanks, meeting, [&](int number) {
    DiskSetup setup = shared;
    setup.rank = number;
    setup.gather = [&, number](std::int64_t mine) { return meeting.gather(number, mine); };
    RandomRank rank(setup, static_cast<unsigned>(number));
    std::mt19937_64 random(11), own(static_cast<std::uint64_t>(number));  // of all ranks; of one
    rank.commit(0);
    for (std::int64_t step = 1; step <= 12; ++step) {
      for (std::uint64_t n = own() % 8; n > 0; --n) rank.change();
      const std::uint64_t now = random() % 8;
      if (setup.slots == 2 && now == 0) rank.reopen();
      rank.commit(step);
      if (now == 1 || now == 2) {
        const int file = rank.gather_in_one_file();
        const fs::path path = rank.disk()->files().path(file);
        setup.gather(0);
        if (number == 0) links.add(path);
        rank.disk()->settle_files();
        rank.expect_in_file(testing::bytes_of_file(path));
      }
      if (number == 0 && now == 3 && links.count() > 0) links.remove(0);
      if (now == 4) rank.reopen();
      setup.gather(0);
      if (number == 0) {
        links.check();
        expect_few_files(setup.directory, setup.slots, links.count());
      }
      setup.gather(0);
    }
  });
}

std::string name_of_way(const ::testing::TestParamInfo<Way>& info) {
  return fmt::format("{}{}Slots{}", info.param.in_memory ? "Cached" : "Direct",
                     info.param.engine == FileEngineKind::kThreads ? "Threads" : "Auto",
                     info.param.slots);
}

INSTANTIATE_TEST_SUITE_P(Ways, SlotDiskTest,
                         ::testing::Values(Way{false, FileEngineKind::kAuto, 2},
                                           Way{false, FileEngineKind::kAuto, 1},
                                           Way{false, FileEngineKind::kThreads, 2},
                                           Way{true, FileEngineKind::kAuto, 2},
                                           Way{true, FileEngineKind::kThreads, 1}),
                         name_of_way);

}  // namespace
}  // namespace thimble
