// Where 70 and 405 billion parameters go on nodes with 1 TB of memory, and what a step moves: the
// formulas of docs/offload.md.
#include <gtest/gtest.h>

#include "plan/train_plan.h"

namespace thimble {
namespace {

constexpr std::int64_t kNodeBudget = 900 * kGiB;

TrainSpec llama_spec(std::int64_t hidden, std::int64_t intermediate, int layers, int heads) {
  TrainSpec spec;
  spec.model.hidden_size = hidden;
  spec.model.intermediate_size = intermediate;
  spec.model.num_layers = layers;
  spec.model.num_heads = heads;
  spec.model.num_kv_heads = 8;
  spec.model.head_dim = 128;
  spec.model.vocab_size = 128256;
  spec.model.max_positions = 8192;
  spec.model.windows.assign(static_cast<std::size_t>(layers), 0);
  spec.optimizer.main = {.label = "main", .match = "", .optimizer = {.name = "adamw"}, .lr = 1e-4};
  spec.optimizer.fallback = spec.optimizer.main;
  spec.engine.dtype = spec.engine.grad_dtype = DType::kBF16;
  spec.engine.master = MasterFormat::kF32;
  spec.engine.recompute = Recompute::kFull;
  spec.engine.seq_len = 4096;
  spec.sequences_per_step = 256;
  spec.may_offload = {.state = true, .gradients = true, .weights = true};
  spec.any_zero_stage = spec.any_cache = spec.any_order = true;
  return spec;
}
TrainSpec spec_of_70b() {
  return llama_spec(8192, 28672, 80, 64);
}
TrainSpec spec_of_405b() {
  return llama_spec(16384, 53248, 126, 128);
}

TrainPlan plan_on(const TrainSpec& spec, int nodes) {
  return plan_training(spec, {.bytes = kNodeBudget, .bound_by = "1 TB"}, {.ranks = nodes});
}

void expect_bytes(std::int64_t got, double want) {
  EXPECT_NEAR(static_cast<double>(got), want, 1e-4 * want);
}

// 12 bytes of masters and moments; what is cached is not read.
TEST(LargePlan, Of70BillionOnOneNodeHasItsStateOnDisk) {
  const TrainSpec spec = spec_of_70b();
  const TrainPlan plan = plan_on(spec, 1);
  ASSERT_TRUE(plan.fits);
  EXPECT_EQ(plan.offload, (OffloadedParts{.state = true}));
  const auto n = static_cast<double>(spec.model.num_parameters());
  const auto cached = static_cast<double>(plan.cache_bytes);
  EXPECT_GT(plan.cache_bytes, 0);
  expect_bytes(plan.disk.written, 12 * n);
  expect_bytes(plan.disk.read, 12 * n - cached);
  EXPECT_EQ(plan.disk_by_passes.total(), 0);
  EXPECT_LE(plan.memory.extent_bytes, kNodeBudget);
}

TEST(LargePlan, Of70BillionOnEightNodesIsInMemory) {
  const TrainPlan plan = plan_on(spec_of_70b(), 8);
  ASSERT_TRUE(plan.fits);
  EXPECT_EQ(plan.offload, OffloadedParts{});
  EXPECT_EQ(plan.zero_stage, 1);
}

// A rank has an eighth.
TEST(LargePlan, Of405BillionOnEightNodesHasItsStateOnDisk) {
  const TrainSpec spec = spec_of_405b();
  const TrainPlan plan = plan_on(spec, 8);
  ASSERT_TRUE(plan.fits);
  EXPECT_EQ(plan.offload, (OffloadedParts{.state = true}));
  EXPECT_EQ(plan.zero_stage, 3);
  const double own = static_cast<double>(spec.model.num_parameters()) / 8;
  expect_bytes(plan.disk.written, 12 * own);
  expect_bytes(plan.disk.read, 12 * own - static_cast<double>(plan.cache_bytes));
}

// Weights alone fit. Sums of gradients of 4 bytes are written by every micro-batch, and read by the
// next and by the update; of them the cache has what it holds.
TEST(LargePlan, Of405BillionOnOneNodeHasGradientsOnDiskToo) {
  const TrainSpec spec = spec_of_405b();
  const TrainPlan plan = plan_on(spec, 1);
  ASSERT_TRUE(plan.fits);
  EXPECT_EQ(plan.offload, (OffloadedParts{.state = true, .gradients = true}));
  const auto n = static_cast<double>(spec.model.num_parameters());
  const auto count = static_cast<double>(plan.batch.accumulation_steps);
  const double sums = 4 * n - static_cast<double>(plan.cache_bytes);
  EXPECT_GT(plan.batch.accumulation_steps, 1);
  expect_bytes(plan.disk.written, 12 * n + count * sums);
  expect_bytes(plan.disk.read, 12 * n + count * sums);
  expect_bytes(plan.disk_by_passes.read, (count - 1) * sums);
  expect_bytes(plan.disk_by_passes.written, count * sums);
}

}  // namespace
}  // namespace thimble
