// Memory of large models told from a few layers, and a search that believes it where it is clear.
#include "plan/memory_estimate.h"

#include <gtest/gtest.h>

#include "plan/micro_batch_search.h"

namespace thimble {
namespace {

TrainSpec large_spec() {
  TrainSpec spec;
  spec.model.hidden_size = 2048;
  spec.model.intermediate_size = 5632;
  spec.model.num_layers = 32;
  spec.model.num_heads = spec.model.num_kv_heads = 16;
  spec.model.head_dim = 128;
  spec.model.vocab_size = 32000;
  spec.model.max_positions = 4096;
  spec.model.windows.assign(32, 0);
  spec.optimizer.main = {.label = "main", .match = "", .optimizer = {.name = "adamw"}, .lr = 1e-3};
  spec.optimizer.fallback = spec.optimizer.main;
  spec.engine.master = MasterFormat::kSplit;
  spec.engine.seq_len = 1024;
  spec.sequences_per_step = 16;
  return spec;
}

// A window of the estimate is the largest that is taken.
TEST(MemoryEstimate, IsNearThePlan) {
  for (const OffloadedParts on_disk :
       {OffloadedParts{}, OffloadedParts{.state = true},
        OffloadedParts{.state = true, .gradients = true, .weights = true}}) {
    for (const Recompute recompute : {Recompute::kNone, Recompute::kFull}) {
      for (const bool by_layers : {false, true}) {
        TrainSpec spec = large_spec();
        spec.offload.state = on_disk.state;
        spec.offload.weights = on_disk.weights;
        spec.offload.gradients = on_disk.gradients;
        spec.engine.recompute = recompute;
        spec.engine.by_layers = by_layers;
        const BatchPlan batch = cut_batch(16, 3, 1);
        const std::optional<std::int64_t> estimate = estimate_memory(spec, batch, {});
        ASSERT_TRUE(estimate.has_value());
        const std::int64_t planned = plan_memory(spec, batch, {}).extent_bytes;
        const auto bytes = static_cast<double>(planned);
        // Windows are counted as large as they may be.
        EXPECT_NEAR(static_cast<double>(*estimate), bytes, 0.05 * bytes + 128.0 * kMiB);
        // What fits is not given up.
        EXPECT_NE(fit_of_estimate(*estimate, planned), Fit::kNo);
      }
    }
  }
}

TEST(MemoryEstimate, IsOnlyMadeOfLargeModelsWithLikeLayers) {
  const BatchPlan batch = cut_batch(16, 1, 1);
  const auto is_made = [&](const TrainSpec& spec) {
    return estimate_memory(spec, batch, {}).has_value();
  };
  EXPECT_TRUE(is_made(large_spec()));
  TrainSpec few = large_spec();
  few.model.num_layers = 12;
  few.model.windows.resize(12);
  EXPECT_FALSE(is_made(few));
  TrainSpec narrow = large_spec();
  narrow.model.hidden_size = 256;
  EXPECT_FALSE(is_made(narrow));
  TrainSpec frozen = large_spec();
  frozen.freeze = {"model\\.layers\\.31\\..*"};
  EXPECT_FALSE(is_made(frozen));
  TrainSpec varying = large_spec();
  varying.optimizer.main.optimizer.name = "badam";
  EXPECT_FALSE(is_made(varying));
}

TEST(MemoryEstimate, IsBelievedOnlyWhereItIsClear) {
  constexpr std::int64_t kTen = 10 * kGiB;
  EXPECT_EQ(fit_of_estimate(kTen, kTen), Fit::kUnsure);
  EXPECT_EQ(fit_of_estimate(kTen, kTen + kGiB), Fit::kYes);
  EXPECT_EQ(fit_of_estimate(kTen, kTen - kGiB), Fit::kNo);
  EXPECT_EQ(fit_of_estimate(kTen, 0), Fit::kNo);
  EXPECT_EQ(fit_of_estimate(0, kMiB), Fit::kUnsure);
}

// What is found is planned, and what is found without estimates.
TEST(MicroBatchSearch, FindsWhatPlansAloneFind) {
  const TrainSpec spec = large_spec();
  const std::int64_t one = plan_memory(spec, cut_batch(16, 1, 1), {}).extent_bytes,
                     four = plan_memory(spec, cut_batch(16, 4, 1), {}).extent_bytes;
  for (const std::int64_t arena : {one - 1, one, four, 2 * four}) {
    TrainPlan plan{.budget = {arena + overhead_bytes(spec.device), "a test"}};
    plan.fits = plan_micro_batch(spec, {}, plan);
    std::int64_t want = 0;
    for (const std::int64_t micro : {16, 8, 6, 4, 3, 2, 1}) {
      if (want == 0 && plan_memory(spec, cut_batch(16, micro, 1), {}).extent_bytes <= arena)
        want = micro;
    }
    EXPECT_EQ(plan.fits, want > 0) << arena;
    if (!plan.fits) continue;
    EXPECT_EQ(plan.batch.micro_batch, want) << arena;
    EXPECT_TRUE(plan.is_planned);
    EXPECT_EQ(plan.memory.extent_bytes, plan_memory(spec, cut_batch(16, want, 1), {}).extent_bytes);
  }
}

}  // namespace
}  // namespace thimble
