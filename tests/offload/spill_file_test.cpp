#include "offload/spill_file.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "core/base/error.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

TEST(SpillFileTest, HasNoName) {
  const testing::TempDir dir;
  SpillFile file(dir.path()), another(dir.path());
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  const std::int64_t at = file.take(10);
  file.cached().write_at(at, std::as_bytes(std::span("0123456789", 10)));
  std::vector<std::byte> read(10);
  file.cached().read_at(at, read);
  EXPECT_EQ(read[9], std::byte{'9'});
}

TEST(SpillFileTest, FillsTheFirstGap) {
  const testing::TempDir dir;
  SpillFile file(dir.path());
  constexpr std::int64_t kBlock = SpillFile::kBlock;
  EXPECT_EQ(file.take(1), 0);
  EXPECT_EQ(file.take(kBlock + 1), kBlock);
  EXPECT_EQ(file.take(kBlock), 3 * kBlock);
  EXPECT_EQ(file.size(), 4 * kBlock);
  file.give_back(kBlock);
  EXPECT_EQ(file.take(kBlock), kBlock);
  EXPECT_EQ(file.take(2 * kBlock), 4 * kBlock) << "the gap has one block";
  EXPECT_EQ(file.take(kBlock), 2 * kBlock);
  EXPECT_THROW(file.give_back(kBlock + 1), LogicError);
}

TEST(SpillFileTest, NoTwoStretchesOverlap) {
  const testing::TempDir dir;
  SpillFile file(dir.path());
  std::mt19937 random(7);
  std::map<std::int64_t, std::int64_t> taken;
  std::int64_t most = 0, now = 0;
  for (int i = 0; i < 2000; ++i) {
    if (!taken.empty() && random() % 5 < 2) {
      const auto any =
          std::next(taken.begin(), static_cast<std::ptrdiff_t>(random() % taken.size()));
      file.give_back(any->first);
      now -= any->second;
      taken.erase(any);
      continue;
    }
    const std::int64_t bytes = 1 + random() % (5 * SpillFile::kBlock);
    const std::int64_t begin = file.take(bytes);
    EXPECT_EQ(begin % SpillFile::kBlock, 0);
    const auto next = taken.lower_bound(begin);
    const std::int64_t free_to = next == taken.end() ? begin + bytes : next->first;
    const std::int64_t free_from =
        next == taken.begin() ? 0 : std::prev(next)->first + std::prev(next)->second;
    EXPECT_LE(begin + bytes, free_to);
    EXPECT_GE(begin, free_from);
    taken.emplace(begin, bytes);
    now += bytes;
    most = std::max(most, now);
  }
  EXPECT_GE(file.size(), most);
}

TEST(SpillFilesTest, DealByRateAndTakeBack) {
  const testing::TempDir a, b, c;
  SpillFiles files({a.path(), b.path(), c.path()}, {1, 2});  // the third is 1
  std::map<int, std::int64_t> given;
  std::vector<SpillFiles::Place> places;
  for (int i = 0; i < 400; ++i) {
    places.push_back(files.take(1 + i % 7 * 1000));
    EXPECT_TRUE(places.back().is_taken());
    given[places.back().disk] += places.back().bytes;
  }
  EXPECT_LT(std::abs(given[1] - 2 * given[0]), 20'000);
  EXPECT_LT(std::abs(given[2] - given[0]), 20'000);
  const std::int64_t size = files.direct(1).size();
  for (const SpillFiles::Place& place : places) files.give_back(place);
  EXPECT_EQ(files.take(1).begin, 0);
  EXPECT_EQ(files.cached(1).size(), size);
}

TEST(SpillFileTest, SaysWhereItCannotBe) {
  const testing::TempDir dir;
  try {
    const SpillFile file(dir / "missing");
    FAIL();
  } catch (const std::runtime_error& e) {
    EXPECT_NE(std::string(e.what()).find((dir / "missing").string()), std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace thimble
