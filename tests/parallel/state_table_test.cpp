// Who holds and who writes which bytes, for every optimizer and for ranks by the thousand.
#include "core/nn/state_table.h"

#include <gtest/gtest.h>

#include <chrono>
#include <numeric>

#include "checkpoint/checkpoint_arrays.h"
#include "models/transformer.h"
#include "optim/groups.h"
#include "optim/registry.h"
#include "parallel/parallel_plan.h"
#include "parallel/quantised_store.h"

namespace thimble {
namespace {

// A table, and what it refers to.
struct Planned {
  ParamTable params;
  OptimizerGroups optimizer;
  ParallelPlan plan;
  StateTable table;

  Planned(const ModelConfig& config, const std::string& name, int ranks, int stage,
          DType dtype = DType::kBF16, MasterFormat master = MasterFormat::kF32)
      : params(Transformer(config).params()),
        optimizer(groups(params, name)),
        plan(params, [this](const ParamInfo& info) { return need(info); },
             {.ranks = ranks, .stage = stage, .small_elements = 64}),
        table(params, optimizer, {.weights = dtype, .master = master, .divided = stage > 0},
              [this](ParamId id) { return plan.spec(id).rows; }) {}

 private:
  static OptimizerGroups groups(const ParamTable& params, const std::string& name) {
    GroupSettings main{.label = "main",
                       .match = "",
                       .optimizer = {.name = name, .rank = 3, .update_gap = 2, .layers = 80},
                       .lr = 1e-3};
    GroupSettings fallback = main;
    fallback.optimizer.name = "adamw";
    return {params, {}, main, fallback};
  }
  OptimizerNeed need(const ParamInfo& info) const {
    OptimizerNeed need = optimizer.needs(info);
    if (optimizer.int8_weight(info))
      need.granule_rows = std::lcm(need.granule_rows, int8_granule_rows(info));
    return need;
  }
};

ModelConfig config_of(std::int64_t hidden, std::int64_t intermediate, int layers, int heads,
                      int kv_heads, std::int64_t vocabulary) {
  ModelConfig c;
  c.hidden_size = hidden;
  c.intermediate_size = intermediate;
  c.num_layers = layers;
  c.num_heads = heads;
  c.num_kv_heads = kv_heads;
  c.head_dim = hidden / heads;
  c.vocab_size = vocabulary;
  c.max_positions = 64;
  c.windows.assign(static_cast<std::size_t>(layers), 0);
  return c;
}

// The ranks' parts of an array follow one another and leave nothing out, and each rank holds what
// it writes.
void expect_covered(const StateEntry& entry, int ranks, const std::string& what) {
  std::int64_t end = 0;
  for (int r = 0; r < ranks; ++r) {
    const ByteRange own = written_by(entry, r), held = entry.held(r);
    if (own.size == 0) continue;
    ASSERT_EQ(own.begin, end) << what << " rank " << r;
    ASSERT_LE(held.begin, own.begin) << what;
    ASSERT_GE(held.end(), own.end()) << what;
    end = own.end();
  }
  ASSERT_EQ(end, entry.bytes()) << what;
}

TEST(StateTable, EveryByteIsWrittenOnce) {
  const ModelConfig odd = config_of(24, 37, 3, 3, 1, 61);
  for (const OptimizerEntry& optimizer : optimizer_entries()) {
    for (const int ranks : {1, 2, 3, 7, 64}) {
      for (const int stage : {0, 1}) {
        for (const MasterFormat master :
             {MasterFormat::kNone, MasterFormat::kF32, MasterFormat::kSplit}) {
          const Planned planned(odd, optimizer.name, ranks, stage, DType::kBF16, master);
          for (const StateEntry& entry : planned.table.entries()) {
            expect_covered(entry, ranks,
                           fmt::format("{}: {} of {}", optimizer.name, entry.slot.name,
                                       planned.params.info(entry.param).name));
          }
        }
      }
    }
  }
}

TEST(StateTable, AnEntryIsFoundByWhatItIs) {
  const Planned planned(config_of(24, 37, 1, 3, 1, 61), "galore", 2, 1);
  const ParamId id = *planned.params.find("model.layers.0.mlp.up_proj.weight");
  const StateEntry* master = planned.table.find(id, StateKind::kMaster);
  ASSERT_NE(master, nullptr);
  EXPECT_EQ(master->slot.name, "master");
  EXPECT_EQ(master->tag, MemoryTag::kMaster);
  EXPECT_TRUE(master->saved);
  EXPECT_FALSE(planned.table.find(id, StateKind::kWeight)->saved) << "made anew from the master";
  const StateEntry* projector = planned.table.find(id, "projector");
  ASSERT_NE(projector, nullptr);
  EXPECT_TRUE(projector->slot.shared());
  EXPECT_EQ(&planned.table[projector->id], projector);
  EXPECT_EQ(projector->held(0), projector->held(1));
  EXPECT_EQ(written_by(*projector, 1), ByteRange{});
}

TEST(StateTable, WhatIsNotKeptAtAStepIsNotSaved) {
  const Planned planned(config_of(24, 37, 3, 3, 1, 61), "badam", 2, 1);
  const auto kept = [&](std::int64_t step) {
    return checkpoint_arrays(planned.table, step, 0).size();
  };
  EXPECT_LT(kept(1), planned.table.entries().size());
  EXPECT_GT(kept(1), static_cast<std::size_t>(planned.params.size()));
}

// The size of the models that a cluster trains: what one rank does to save is a walk over the
// arrays of the model, and even all ranks' parts are at hand.
void plan_large_save(const ModelConfig& config, int ranks, const char* what) {
  const auto start = std::chrono::steady_clock::now();
  const Planned planned(config, "adamw", ranks, 3);
  const std::vector<CheckpointArray> first = checkpoint_arrays(planned.table, 1, 0),
                                     last = checkpoint_arrays(planned.table, 1, ranks - 1);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  ::testing::Test::RecordProperty(what, fmt::format("{:.3f} s", seconds.count()));
  fmt::print("{}: {} arrays, {:.3f} s\n", what, first.size(), seconds.count());
  ASSERT_EQ(first.size(), last.size());
  for (const CheckpointArray& array : first) expect_covered(*array.entry, ranks, what);
}

TEST(StateTable, SavesOfLargeModels) {
  plan_large_save(config_of(8192, 28672, 80, 64, 8, 128256), 1024, "70B on 1024 ranks");
  plan_large_save(config_of(16384, 53248, 126, 128, 8, 128256), 4096, "405B on 4096 ranks");
}

}  // namespace
}  // namespace thimble
