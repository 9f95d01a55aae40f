#include "core/device/arena.h"

#include <gtest/gtest.h>

#include <set>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/random.h"
#include "core/device/stream.h"

namespace thimble {
namespace {

// The same random sequence of reservations on both arenas.
void play(Arena& arena, std::uint64_t seed, std::vector<std::int64_t>& offsets) {
  const CounterRandom random(seed, RandomPurpose::kSampling);
  std::vector<Reservation> held;
  const char* origin = nullptr;
  for (std::uint64_t i = 0; i < 400; ++i) {
    if (i % 100 == 0) arena.begin_phase("phase" + std::to_string(i / 200));
    if (!held.empty() && random.uniform(3 * i) < 0.45f) {
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(random.u32(3 * i + 1) % held.size()));
      continue;
    }
    const auto bytes = static_cast<std::int64_t>(random.u32(3 * i + 1) % 300'000);
    held.push_back(arena.reserve(static_cast<MemoryTag>(random.u32(3 * i + 2) % kNumMemoryTags),
                                 bytes, "test"));
    if (origin == nullptr) origin = static_cast<const char*>(held.back().data());
    offsets.push_back(static_cast<const char*>(held.back().data()) - origin);
  }
}

TEST(Arena, PlanAndRunPlaceEverythingAlike) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto plan = Arena::make_planning();
    std::vector<std::int64_t> planned, real;
    play(*plan, seed, planned);
    const auto arena = Arena::make_cpu(plan->extent_bytes());  // exactly what was planned is enough
    arena->set_poison(true);
    play(*arena, seed, real);
    EXPECT_EQ(planned, real);
    EXPECT_EQ(plan->peaks(), arena->peaks());
    EXPECT_EQ(plan->extent_bytes(), arena->extent_bytes());
    EXPECT_EQ(arena->live_bytes(), 0);
  }
}

TEST(Arena, AddressesDependOnWhatIsInUseAlone) {
  const auto fresh = Arena::make_planning(), used = Arena::make_planning();
  std::vector<std::int64_t> before, first, again;
  play(*used, 7, before);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    play(*fresh, seed, first);
    play(*used, seed, again);
    EXPECT_EQ(fresh->layout_hash(), used->layout_hash());
  }
  EXPECT_EQ(first, again);
}

TEST(Arena, FreedNeighboursJoin) {
  const auto arena = Arena::make_cpu(1 << 20);
  {
    const Reservation a = arena->reserve(MemoryTag::kIo, 1000, "a");
    const Reservation b = arena->reserve(MemoryTag::kIo, 1000, "b");
    const Reservation c = arena->reserve(MemoryTag::kIo, 1000, "c");
  }
  const std::int64_t extent = arena->extent_bytes();
  const Reservation all = arena->reserve(MemoryTag::kIo, 3000, "all");
  EXPECT_EQ(arena->extent_bytes(), extent);
}

// A free range that ends where the arena does is cut like any other.
TEST(Arena, AllOfItIsHandedOutAgain) {
  const auto arena = Arena::make_cpu(2 * kMiB);
  static_cast<void>(arena->reserve(MemoryTag::kIo, 2 * kMiB, "all"));
  for (int i = 0; i < 3; ++i) {
    const Reservation half = arena->reserve(MemoryTag::kIo, kMiB, "half"),
                      other = arena->reserve(MemoryTag::kIo, kMiB, "other half");
    EXPECT_NE(half.data(), other.data());
  }
}

TEST(Arena, FullArenaSaysWhatIsLive) {
  const auto arena = Arena::make_cpu(4 << 20);
  const Reservation held = arena->reserve(MemoryTag::kWeights, 3 << 20, "weights");
  try {
    const Reservation more = arena->reserve(MemoryTag::kActivations, 2 << 20, "layer 3");
    FAIL();
  } catch (const SystemError& e) {
    EXPECT_STREQ(e.what(),
                 "out of memory: layer 3 (activations) asked for 2.0 MiB; live: weights 3.0 MiB, "
                 "of 4.0 MiB");
  }
  EXPECT_EQ(arena->live_bytes(), 3 << 20);
}

TEST(Stream, ErrorsComeOnceAndLaterWorkRuns) {
  Stream stream("test");
  int ran = 0;
  Completion bad = stream.run([] { throw SystemError("disk"); });
  Completion good = stream.run([&] { ran = 1; });
  EXPECT_THROW(bad.wait(), SystemError);
  bad.wait();
  good.wait();
  EXPECT_EQ(ran, 1);
}

TEST(CounterRandomTest, IsAFunctionOfKeyAndIndex) {
  const CounterRandom a(1, RandomPurpose::kInit, hash_name("x")),
      b(1, RandomPurpose::kInit, hash_name("y"));
  std::set<std::uint32_t> seen;
  double sum = 0, squares = 0;
  for (std::uint64_t i = 0; i < 100'000; ++i) {
    EXPECT_EQ(a.u32(i), CounterRandom(1, RandomPurpose::kInit, hash_name("x")).u32(i));
    seen.insert(a.u32(i));
    const double n = a.normal(i);
    sum += n;
    squares += n * n;
  }
  EXPECT_GT(seen.size(), 99'990u);
  EXPECT_NE(a.u32(0), b.u32(0));
  EXPECT_LT(std::abs(sum / 1e5), 0.02);
  EXPECT_LT(std::abs(squares / 1e5 - 1), 0.03);
}

}  // namespace
}  // namespace thimble
