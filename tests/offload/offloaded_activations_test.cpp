#include "offload/offloaded_activations.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using testing::random_bytes;
using testing::TempDir;

using Saved = std::vector<std::shared_ptr<SavedTensor>>;

ActivationOptions options(const fs::path& directory) {
  return {.directories = {directory}, .window_bytes = 256 * kKiB, .least_bytes = 1};
}

Tensor make(Arena& arena, std::int64_t bytes) {
  return Tensor::empty(arena, MemoryTag::kActivations, DType::kU8, Shape{bytes}, "made");
}

Tensor filled(Arena& arena, std::int64_t bytes, unsigned seed) {
  Tensor tensor = make(arena, bytes);
  const auto random = random_bytes(static_cast<std::size_t>(bytes), seed);
  std::memcpy(tensor.raw(), random.data(), random.size());
  return tensor;
}

bool holds(const Tensor& tensor, unsigned seed) {
  const auto random = random_bytes(static_cast<std::size_t>(tensor.nbytes()), seed);
  return std::memcmp(tensor.raw(), random.data(), random.size()) == 0;
}

// The file without a name, as this process still reaches it.
File spill_file(const fs::path& directory) {
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::string target = fs::read_symlink(entry.path(), gone).string();
    if (target.starts_with((directory / "spill-").string()))
      return File::open_read_write(entry.path());
  }
  throw_system("no file was left in {}", directory.string());
}

constexpr std::array<std::int64_t, 8> kSizes{
    1, 4095, 64 * kKiB, 64 * kKiB + 24, 3, 3 * kMiB + 1000, 128 * kKiB, 5 * kMiB};

void expect_round_trip(const fs::path& directory) {
  const auto arena = Arena::make_cpu(64 * kMiB);
  arena->set_poison(true);
  OffloadedActivations away(*arena, options(directory));
  for (unsigned pass = 0; pass < 2; ++pass) {
    Saved saved;
    for (unsigned i = 0; i < kSizes.size(); ++i)
      saved.push_back(away.save(filled(*arena, kSizes[i], pass + i)));
    for (unsigned i = kSizes.size(); i-- > 0;) {
      EXPECT_TRUE(holds(saved[i]->get(), pass + i)) << i;
      EXPECT_EQ(saved[i]->get().raw(), saved[i]->get().raw()) << "it comes back once";
      saved[i].reset();
    }
    EXPECT_EQ(arena->live_bytes(), 0);
  }
}

TEST(OffloadedActivationsTest, GiveBackTheBytesThatWereSaved) {
  const TempDir disk;
  expect_round_trip(disk.path());
  EXPECT_TRUE(fs::is_empty(disk.path()));
  const testing::MemoryDir memory;  // no transfers past the page cache
  expect_round_trip(memory.path());
}

TEST(OffloadedActivationsTest, AnyOrderWillDo) {
  const TempDir dir;
  const auto arena = Arena::make_cpu(64 * kMiB);
  OffloadedActivations away(*arena, options(dir.path()));
  Saved saved;
  for (unsigned i = 0; i < 12; ++i) saved.push_back(away.save(filled(*arena, 200'000 + i, i)));
  for (const unsigned i : {3u, 11u, 0u, 7u, 1u, 10u}) {
    EXPECT_TRUE(holds(saved[i]->get(), i)) << i;
    saved[i].reset();
  }
  // Some are never asked for.
  saved.clear();
  EXPECT_EQ(arena->live_bytes(), 0);
}

TEST(OffloadedActivationsTest, WhatIsSmallOrHasGapsStays) {
  const TempDir dir;
  const auto arena = Arena::make_cpu(64 * kMiB);
  ActivationOptions with = options(dir.path());
  with.least_bytes = with.window_bytes = 100;
  OffloadedActivations away(*arena, with);
  const Tensor matrix =
      Tensor::empty(*arena, MemoryTag::kActivations, DType::kF32, Shape{100, 50}, "matrix");
  const auto small = away.save(make(*arena, 99)), columns = away.save(matrix.columns(3, 20));
  EXPECT_EQ(columns->get().raw(), matrix.columns(3, 20).raw());
  EXPECT_EQ(away.traffic().written, 0);
  static_cast<void>(away.save(make(*arena, 100)));
  EXPECT_EQ(away.traffic().written, 100);
}

// Saves and gets back tensors as a forward and a backward pass do, each with a neighbour at work.
void play(Arena& arena, OffloadedActivations& away) {
  arena.begin_phase("step");
  for (int pass = 0; pass < 2; ++pass) {
    Saved saved;
    Tensor before = make(arena, 70'000);
    for (const int size : {300'000, 90'000, 70'000, 300'001, 800'000, 10, 400'000, 300'000, 300'000,
                           90'000, 70'000, 300'001, 800'000, 10, 400'000, 300'000}) {
      Tensor now = make(arena, size);
      saved.push_back(away.save(now));
      before = std::move(now);
    }
    for (; !saved.empty(); saved.pop_back()) {
      const Tensor gradient = make(arena, saved.back()->get().nbytes());
      before = gradient;
    }
  }
}

TEST(OffloadedActivationsTest, TakeThePlannedMemoryWhichIsThatOfTheWindows) {
  const TempDir dir;
  const auto plan = Arena::make_planning();
  OffloadedActivations planned(*plan, options("not there"));
  play(*plan, planned);
  const auto arena = Arena::make_cpu(plan->extent_bytes());
  OffloadedActivations away(*arena, options(dir.path()));
  play(*arena, away);
  EXPECT_EQ(plan->peaks(), arena->peaks());
  EXPECT_EQ(planned.traffic().written, away.traffic().written);
  EXPECT_EQ(planned.traffic().read, away.traffic().read);
  EXPECT_EQ(planned.most_on_disk(), away.most_on_disk());
  // The two windows, or the largest tensor in them, beside two tensors at work; all are 4.5 MB.
  EXPECT_LE(arena->peak().total_bytes, 2'000'000);
  EXPECT_LT(away.traffic().read, away.traffic().written) << "the last ones are still there";
  EXPECT_GT(4 * away.traffic().read, 3 * away.traffic().written);
}

TEST(OffloadedActivationsTest, TheLastOfTheForwardPassAreNotWritten) {
  const TempDir dir;
  const auto arena = Arena::make_cpu(64 * kMiB);
  arena->set_poison(true);
  OffloadedActivations away(*arena, options(dir.path()));
  for (int pass = 1; pass <= 2; ++pass) {
    Saved saved;
    for (unsigned i = 0; i < 12; ++i) saved.push_back(away.save(filled(*arena, 30'000, i)));
    EXPECT_EQ(away.traffic().written, pass * 8 * 30'000) << "half a window waits";
    for (unsigned i = 12; i-- > 0;) {
      EXPECT_TRUE(holds(saved[i]->get(), i)) << i;
      saved[i].reset();
    }
    EXPECT_EQ(away.traffic().read, pass * 4 * 30'000) << "a window is still there";
    EXPECT_EQ(away.traffic().written, pass * 8 * 30'000);
  }
}

TEST(OffloadedActivationsTest, SeveralDisksTakeTheirShares) {
  const TempDir slow, fast;
  const auto arena = Arena::make_cpu(64 * kMiB);
  ActivationOptions with = options(slow.path());
  with.directories.push_back(fast.path());
  with.disk_rates = {1, 3};
  OffloadedActivations away(*arena, with);
  Saved saved;
  for (unsigned i = 0; i < 16; ++i) saved.push_back(away.save(filled(*arena, 300'000, i)));
  EXPECT_EQ(3 * spill_file(slow.path()).size(), spill_file(fast.path()).size());
  for (unsigned i = 16; i-- > 0;) {
    EXPECT_TRUE(holds(saved[i]->get(), i)) << i;
    saved[i].reset();
  }
  EXPECT_EQ(arena->live_bytes(), 0);
}

constexpr std::int64_t kSize = 300'000;

// Saves so much that the first ones leave, and brings those back.
bool save_and_return(const fs::path& directory, const std::function<void()>& meanwhile) {
  const auto arena = Arena::make_cpu(64 * kMiB);
  OffloadedActivations away(*arena, options(directory));
  Saved saved;
  for (unsigned i = 0; i < 8; ++i) saved.push_back(away.save(filled(*arena, kSize, i)));
  meanwhile();
  for (; !saved.empty(); saved.pop_back()) {
    if (!holds(saved.back()->get(), static_cast<unsigned>(saved.size()) - 1)) return false;
  }
  return true;
}

TEST(OffloadedActivationsTest, AFileThatWasCutIsNamed) {
  const TempDir dir;
  const auto cut = [&] {
    save_and_return(dir.path(),
                    [&] { ASSERT_EQ(::ftruncate(spill_file(dir.path()).descriptor(), 5000), 0); });
  };
  EXPECT_THROWS_WITH(SystemError, (dir / "spill-").string(), cut());
}

TEST(OffloadedActivationsTest, AChangedByteIsNoticed) {
  const TempDir dir;
  const auto flip = [&](std::int64_t at) {
    const File file = spill_file(dir.path());
    std::byte one{};
    file.read_at(at, {&one, 1});
    one ^= std::byte{4};
    file.write_at(at, {&one, 1});
  };
  // Each takes whole blocks, and has not all of their bytes.
  constexpr std::int64_t kEach = 74 * SpillFile::kBlock;
  EXPECT_TRUE(save_and_return(dir.path(), [&] { flip(kEach + kSize); }));
  for (const std::int64_t at : {std::int64_t{17}, kEach, kEach + kSize - 1}) {
    const std::int64_t begin = at / kEach * kEach;
    EXPECT_THROWS_WITH(SystemError,
                       fmt::format("bytes {} to {}, of an activation, are not what was written",
                                   begin, begin + kSize),
                       save_and_return(dir.path(), [&] { flip(at); }));
  }
}

TEST(OffloadedActivationsTest, SayWhereTheyCannotBe) {
  const TempDir dir;
  const auto arena = Arena::make_cpu(kMiB);
  EXPECT_THROWS_WITH(std::runtime_error, (dir / "missing").string(),
                     OffloadedActivations(*arena, options(dir / "missing")));
}

}  // namespace
}  // namespace thimble
