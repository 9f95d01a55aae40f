// Compressed caches against plain attention: nothing is lost where nothing is evicted, and what is
// kept is attended to exactly.
#include <algorithm>

#include "tests/compress/cache_harness.h"

namespace thimble {
namespace {

constexpr std::int64_t kText = 203;

const std::vector<KvMethod> kEvicting{KvMethod::kWindow, KvMethod::kRandom, KvMethod::kKnorm,
                                      KvMethod::kH2o,    KvMethod::kSnapKv, KvMethod::kExpected};

KvOptions options_of(KvMethod method, double budget) {
  return {.method = method, .budget = budget, .sinks = 4, .window = 16};
}

// The whole text, prompt in chunks, then one by one: the outputs of every position, layer by layer
// within a feed.
std::vector<double> run(CacheHarness& h, const std::vector<std::int64_t>& feeds) {
  std::vector<double> out;
  for (const std::int64_t n : feeds) {
    const std::vector<double> some = h.feed(n);
    out.insert(out.end(), some.begin(), some.end());
  }
  return out;
}

std::vector<double> last_position(const std::vector<double>& out, const KvShape& s) {
  return {out.end() - s.heads * s.head_dim, out.end()};
}

TEST(CompressedCache, EveryMethodAtFullBudgetAttendsToEverything) {
  const KvShape shape = small_shape(kText);
  CacheHarness full(options_of(KvMethod::kFull, 1), shape);
  const std::vector<double> want = full.feed(kText);
  for (const KvMethod method : kEvicting) {
    for (const RopeStage stage : {RopeStage::kPost, RopeStage::kPre}) {
      KvOptions o = options_of(method, 1);
      o.rope_stage = stage;
      CacheHarness h(o, shape);
      expect_close(h.feed(kText), want, stage == RopeStage::kPost ? 0 : 1e-6, "one shot");
      CacheHarness parts(o, shape);
      run(parts, {64, 100, 3});
      for (int i = 0; i < 35; ++i) parts.feed(1);
      expect_close(last_position(parts.feed(1), shape), last_position(want, shape), 1e-5, "parts");
      EXPECT_EQ(parts.cache().kept(1, 1), kText);
    }
  }
}

TEST(CompressedCache, SlotsAreThePositionsWhereNothingIsEvicted) {
  const KvShape shape = small_shape(kText);
  CacheHarness full(options_of(KvMethod::kFull, 1), shape);
  const std::vector<double> want = full.feed(kText);
  KvOptions o = options_of(KvMethod::kH2o, 1);
  o.rope_stage = RopeStage::kPre;
  o.positions = PositionPolicy::kSlots;
  CacheHarness h(o, shape);
  expect_close(h.feed(kText), want, 1e-5, "one shot");
  CacheHarness parts(o, shape);
  run(parts, {150, 50});
  parts.feed(1);
  parts.feed(1);
  expect_close(last_position(parts.feed(1), shape), last_position(want, shape), 1e-5, "parts");
}

// At a tenth of the text the budget holds while prompts come in chunks and while decoding, what
// always stays is there, and attention over what is left is exact.
TEST(CompressedCache, WhatIsKeptIsWithinTheBudgetAndAttendedToExactly) {
  const KvShape shape = small_shape(500);
  for (const KvMethod method : kEvicting) {
    for (const KvAllocation allocation : {KvAllocation::kEven, KvAllocation::kAdaPyramid}) {
      KvOptions o = options_of(method, 50);
      if (method != KvMethod::kWindow) o.allocation = allocation;
      CacheHarness h(o, shape);
      const KvPlan& plan = h.cache().plan();
      for (std::int64_t step = 0; h.cache().length() < 480; ++step) {
        const std::int64_t count = step < 3 ? 100 : 1;
        for (int l = 0; l < 2; ++l) {
          const KvQueries in = h.inputs(l, count);
          const std::int64_t before = h.cache().kept(l, 0) + h.cache().kept(l, 1);
          const Tensor got = h.cache().attend(h.arena(), in);
          std::int64_t tokens = 0;
          for (std::int64_t head = 0; head < 2; ++head) {
            const std::vector<std::int32_t> kept = h.cache().positions(l, head);
            tokens += static_cast<std::int64_t>(kept.size());
            ASSERT_TRUE(std::is_sorted(kept.begin(), kept.end()));
            const std::int64_t last = h.cache().length() + count - 1;
            for (std::int32_t sink = 0; sink < 4; ++sink)
              EXPECT_TRUE(std::binary_search(kept.begin(), kept.end(), sink));
            for (std::int64_t back = 0; back < 16; ++back)
              EXPECT_TRUE(std::binary_search(kept.begin(), kept.end(), last - back));
          }
          const LayerPlan& layer = plan.layers[static_cast<std::size_t>(l)];
          EXPECT_LE(tokens, 2 * layer.limit);
          if (count > 1) {
            EXPECT_EQ(tokens, 2 * std::min(layer.budget, h.cache().length() + count));
          }
          // Nothing was evicted at this step: what is there is what the step attended to.
          if (count == 1 && tokens == before + 2)
            expect_close(values_of(got), h.plain_attention(in), 2e-6, "one position");
        }
        h.cache().advance(count);
      }
      EXPECT_EQ(h.cache().bytes(), h.kv_arena().live_bytes(MemoryTag::kKv));
      EXPECT_EQ(h.cache().bytes(), CompressedKvCache::planned_bytes(plan));
      EXPECT_LE(h.cache().peak_bytes(), h.cache().bytes());
      EXPECT_LT(h.cache().bytes(), shape.dense_bytes() / 2);
    }
  }
}

TEST(CompressedCache, PackedCodesAreAttendedToAsTheyUnpack) {
  for (const std::int64_t dim : {16, 20, 64, 96}) {
    for (const std::int64_t bits : {8, 4, 2}) {
      for (const std::int64_t group : {32, 64}) {
        KvShape shape = small_shape(400);
        shape.head_dim = dim;
        KvOptions o{.method = KvMethod::kFull, .window = 64, .bits = bits, .group = group};
        CacheHarness h(o, shape, static_cast<std::uint64_t>(dim * bits));
        run(h, {130, 170});
        for (int step = 0; step < 70; ++step) {
          const KvQueries in = h.inputs(0, 1);
          const std::vector<double> got = values_of(h.cache().attend(h.arena(), in));
          if (step % 23 == 0) expect_close(got, h.plain_attention(in), 2e-6, "codes");
          h.cache().attend(h.arena(), h.inputs(1, 1));
          h.cache().advance(1);
        }
        EXPECT_EQ(h.cache().bytes(), h.kv_arena().live_bytes(MemoryTag::kKv));
      }
    }
  }
}

// The error of 8 bits is small, that of 2 bits is not, and the window is exact.
TEST(CompressedCache, FewerBitsLoseMoreAndTheWindowNothing) {
  const KvShape shape = small_shape(300);
  CacheHarness full(options_of(KvMethod::kFull, 1), shape);
  run(full, {200});
  const std::vector<double> want = full.feed(1);
  double before = 1e-6;
  for (const std::int64_t bits : {8, 4, 2}) {
    CacheHarness h({.method = KvMethod::kFull, .window = 32, .bits = bits}, shape);
    run(h, {200});
    const std::vector<double> got = h.feed(1);
    double error = 0;
    for (std::size_t i = 0; i < got.size(); ++i) error += std::pow(got[i] - want[i], 2);
    error = std::sqrt(error / static_cast<double>(got.size()));
    EXPECT_TRUE(error > before && error < 0.5) << bits << ": " << error;
    before = 2 * error;
    std::vector<float> keys(static_cast<std::size_t>(201 * 16)), all(keys.size());
    h.cache().head(0, 1).gather({.keys = keys.data(), .key_stride = 16});
    full.cache().head(0, 1).gather({.keys = all.data(), .key_stride = 16});
    EXPECT_TRUE(std::equal(keys.end() - 32 * 16, keys.end(), all.end() - 32 * 16));
    EXPECT_FALSE(std::equal(keys.begin(), keys.begin() + 32 * 16, all.begin()));
  }
}

// Eviction and few bits together: survivors are packed anew.
TEST(CompressedCache, TokensAndBitsMultiply) {
  const KvShape shape = small_shape(1000);
  KvOptions o{.method = KvMethod::kSnapKv, .budget = 0.25, .window = 32, .bits = 4};
  CacheHarness h(o, shape);
  run(h, {300, 300});
  for (int i = 0; i < 100; ++i) {
    const KvQueries in = h.inputs(0, 1);
    const std::int64_t kept = h.cache().kept(0, 0);
    const std::vector<double> got = values_of(h.cache().attend(h.arena(), in));
    if (h.cache().kept(0, 0) == kept + 1) expect_close(got, h.plain_attention(in), 2e-6, "codes");
    h.cache().attend(h.arena(), h.inputs(1, 1));
    h.cache().advance(1);
  }
  EXPECT_LE(h.cache().kept(1, 0), h.cache().plan().layers[1].limit);
  EXPECT_EQ(h.cache().bytes(), h.kv_arena().live_bytes(MemoryTag::kKv));
}

TEST(CompressedCache, SlidingWindowsOfTheModelKeepWhatTheySee) {
  KvShape shape = small_shape(300);
  shape.windows = {0, 40};
  CacheHarness full(options_of(KvMethod::kFull, 1), shape);
  EXPECT_EQ(full.cache().plan().layers[1].budget, 40);
  const std::vector<double> want = full.feed(300);
  CacheHarness parts(options_of(KvMethod::kH2o, 1), shape);
  run(parts, {100, 150, 3});
  for (int i = 0; i < 46; ++i) parts.feed(1);
  expect_close(last_position(parts.feed(1), shape), last_position(want, shape), 1e-5, "window");
  EXPECT_LE(parts.cache().kept(1, 0), 44);
}

TEST(CompressedCache, ClearedItIsAsNew) {
  const KvShape shape = small_shape(200);
  for (const KvMethod method : kEvicting) {
    CacheHarness h(options_of(method, 0.3), shape);
    const std::vector<double> want = run(h, {90, 60, 1, 1});
    h.cache().clear();
    EXPECT_EQ(h.cache().kept(0, 0), 0);
    expect_close(run(h, {90, 60, 1, 1}), want, 0, "again");
  }
}

}  // namespace
}  // namespace thimble
