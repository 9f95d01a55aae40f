#include "offload/checksum_runs.h"

#include <gtest/gtest.h>

#include <array>
#include <random>

#include "core/base/error.h"
#include "core/io/crc32c.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

using testing::random_bytes;

ChecksumRun run_of(std::int64_t begin, std::int64_t end, std::uint32_t crc = 0) {
  return {begin, end, crc};
}

TEST(Crc32cJoined, IsTheChecksumOfTheConcatenation) {
  std::mt19937 random(3);
  unsigned seed = 0;
  for (int i = 0; i < 300; ++i) {
    const auto size = [&]() -> std::size_t {
      return std::array<std::size_t, 6>{
          0, 1, random() % 10, random() % 300, 4096, random() % 100'000}[random() % 6];
    };
    const std::vector<std::byte> a = random_bytes(size(), seed++), b = random_bytes(size(), seed++);
    std::vector<std::byte> both = a;
    both.insert(both.end(), b.begin(), b.end());
    EXPECT_EQ(crc32c_joined(crc32c(a), crc32c(b), static_cast<std::int64_t>(b.size())),
              crc32c(both))
        << a.size() << " and " << b.size();
    EXPECT_EQ(crc32c(b, crc32c(a)), crc32c(both));
  }
}

TEST(Crc32cJoined, JoinsAnyNumberOfParts) {
  const std::vector<std::byte> all = random_bytes(3'000'001, 4);
  std::mt19937 random(5);
  std::uint32_t joined = 0;
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t size = std::min<std::size_t>(random() % 50'000, all.size() - at);
    joined = crc32c_joined(joined, crc32c(std::span(all).subspan(at, size)),
                           static_cast<std::int64_t>(size));
    at += size;
  }
  EXPECT_EQ(joined, crc32c(all));
}

TEST(Crc32cJoined, ManyZerosTakeNoTime) {
  // As many bytes as no memory holds, joined in halves and at once.
  const std::int64_t size = std::int64_t{1} << 60;
  std::uint32_t zeros = crc32c(std::vector<std::byte>(1));
  for (std::int64_t have = 1; have < size; have *= 2) zeros = crc32c_joined(zeros, zeros, have);
  const std::uint32_t a = 0x12345678;
  EXPECT_EQ(crc32c_joined(crc32c_joined(a, zeros, size), zeros, size),
            crc32c_joined(a, crc32c_joined(zeros, zeros, size), 2 * size));
}

TEST(ChecksumRunsTest, ReplacesWhatLiesWithin) {
  ChecksumRuns runs;
  EXPECT_TRUE(runs.empty());
  runs.put(run_of(5, 5, 1));
  EXPECT_TRUE(runs.empty()) << "no bytes are no run";
  runs.put(run_of(0, 10, 1));
  runs.put(run_of(10, 20, 2));
  runs.put(run_of(30, 31, 3));
  EXPECT_EQ(runs.all(), (std::vector{run_of(0, 10, 1), run_of(10, 20, 2), run_of(30, 31, 3)}));
  runs.put(run_of(0, 10, 4));
  runs.put(run_of(10, 40, 5));
  EXPECT_EQ(runs.all(), (std::vector{run_of(0, 10, 4), run_of(10, 40, 5)}));
  EXPECT_THROWS_WITH(LogicError, "a write of bytes 9 to 11 cuts 0 to 10", runs.put(run_of(9, 11)));
  EXPECT_THROWS_WITH(LogicError, "cuts 10 to 40", runs.put(run_of(10, 39)));
  EXPECT_THROWS_WITH(LogicError, "cuts 10 to 40", runs.put(run_of(11, 40)));
  EXPECT_EQ(runs.all(), (std::vector{run_of(0, 10, 4), run_of(10, 40, 5)}));
  runs.erase(run_of(0, 10, 4));
  EXPECT_EQ(runs.all(), (std::vector{run_of(10, 40, 5)}));
}

TEST(ChecksumRunsTest, FindsRunsAndGapsAsAPlainListDoes) {
  std::mt19937 random(6);
  constexpr std::int64_t kSize = 60;
  for (int round = 0; round < 300; ++round) {
    ChecksumRuns runs;
    std::vector<ChecksumRun> list;
    for (std::int64_t at = 0; at < kSize;) {
      const std::int64_t begin = at + static_cast<std::int64_t>(random() % 4),
                         end = begin + 1 + static_cast<std::int64_t>(random() % 9);
      list.push_back(run_of(begin, end, static_cast<std::uint32_t>(random())));
      runs.put(list.back());
      at = end;
    }
    const std::int64_t begin = static_cast<std::int64_t>(random() % kSize),
                       end = begin + static_cast<std::int64_t>(random() % kSize);
    std::vector<ChecksumRun> found;
    std::vector<bool> covered(2 * kSize);
    for (const ChecksumRun& run : list) {
      if (run.begin < end && run.end > begin && begin < end) found.push_back(run);
      for (std::int64_t i = run.begin; i < run.end; ++i)
        covered[static_cast<std::size_t>(i)] = true;
    }
    EXPECT_EQ(runs.in(begin, end), found) << begin << " " << end;
    for (const ChecksumRun& gap : runs.gaps(begin, end)) {
      EXPECT_TRUE(begin <= gap.begin && gap.begin < gap.end && gap.end <= end);
      for (std::int64_t i = gap.begin; i < gap.end; ++i) {
        EXPECT_FALSE(covered[static_cast<std::size_t>(i)]);
        covered[static_cast<std::size_t>(i)] = true;
      }
    }
    for (std::int64_t i = begin; i < end; ++i) EXPECT_TRUE(covered[static_cast<std::size_t>(i)]);
  }
}

TEST(ChecksumRunsTest, NoRunLiesInTwoBlocksOfItsFile) {
  EXPECT_TRUE(cut_into_runs(7, 7, 0).empty());
  EXPECT_EQ(cut_into_runs(0, 1, 0), (std::vector{run_of(0, 1)}));
  EXPECT_EQ(cut_into_runs(0, kRunBytes, 0), (std::vector{run_of(0, kRunBytes)}));
  EXPECT_EQ(cut_into_runs(0, kRunBytes, 1),
            (std::vector{run_of(0, kRunBytes - 1), run_of(kRunBytes - 1, kRunBytes)}));
  EXPECT_EQ(
      cut_into_runs(5, 2 * kRunBytes, 4096),
      (std::vector{run_of(5, kRunBytes - 4096), run_of(kRunBytes - 4096, 2 * kRunBytes - 4096),
                   run_of(2 * kRunBytes - 4096, 2 * kRunBytes)}));
}

TEST(ChecksumRunsTest, ChecksumsAreThoseOfTheBytes) {
  constexpr std::int64_t kBegin = 1001, kSize = 2 * kRunBytes + 77;
  const std::vector<std::byte> bytes = random_bytes(kSize, 7);
  std::vector<ChecksumRun> runs = cut_into_runs(kBegin, kBegin + kSize, 4096);
  checksum_runs(runs, bytes.data(), kBegin);
  std::uint32_t joined = 0;
  for (const ChecksumRun& run : runs) {
    EXPECT_EQ(run.crc,
              crc32c(std::span(bytes).subspan(static_cast<std::size_t>(run.begin - kBegin),
                                              static_cast<std::size_t>(run.end - run.begin))));
    joined = crc32c_joined(joined, run.crc, run.end - run.begin);
  }
  EXPECT_EQ(joined, crc32c(bytes));
  checksum_runs({}, nullptr, 0);
}

}  // namespace
}  // namespace thimble
