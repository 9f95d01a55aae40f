// Gradients that wait with the state: the bits of gradients in memory, in which then only a few are
// at once.
#include "tests/parallel/tiny_training.h"

namespace thimble {
namespace {

class StoredGradients : public testing::TestWithParam<int> {};

// In stores that do all that they may, and on a disk.
TEST_P(StoredGradients, AreThoseInMemoryBitForBit) {
  const int ranks = GetParam();
  int turn = 0;
  for (const OptimizerEntry& entry : optimizer_entries()) {
    for (const int accumulation_steps : {1, 3}) {
      // Refreshes take whole gradients, other steps their projections.
      const bool project = reads_key(entry, "project_gradients") && accumulation_steps == 3;
      const bool bf16 = entry.int8_weights || ++turn % 2 == 0;
      Setting s{.optimizer = entry.name,
                .stage = entry.int8_weights || turn % 3 == 0 ? 2 : 3,
                .accumulation_steps = accumulation_steps,
                .dtype = bf16 ? DType::kBF16 : DType::kF32,
                .comm_dtype = turn % 4 < 2 ? DType::kBF16 : DType::kF32,
                .tied = accumulation_steps == 3,
                .wide = turn % 4 > 1,
                .master = bf16 ? MasterFormat::kSplit : MasterFormat::kF32,
                .project_gradients = project};
      if (entry.int8_weights) s.master = MasterFormat::kNone;
      const std::string where = fmt::format("{} x {}", entry.name, accumulation_steps);
      run_ranks(ranks, [&](Communicator& comm) {
        const auto batches = batches_of(comm.rank(), ranks, accumulation_steps, -1);
        const Outcome want = train(comm, s, batches);
        Setting stored = s;
        stored.stored_gradients = true;
        stored.hostile = true;
        expect_same(train(comm, stored, batches), want, where + " in hostile stores");
        stored.hostile = false;
        stored.disk = TestDisk{.slots = 1 + turn % 2,
                               .weights = turn % 2 == 0 && s.stage == 3,
                               .cache_bytes = turn % 4 < 2 ? 0 : 64 * kKiB,
                               .commit_steps = 1 + turn % 3};
        expect_same(train(comm, stored, batches), want, where + " on disk");
      });
    }
  }
}

// A step whose loss is not finite changes nothing and is named, and the next goes on.
TEST_P(StoredGradients, OfABadStepAreNotUsed) {
  const int ranks = GetParam();
  run_ranks(ranks, [&](Communicator& comm) {
    const auto play = [&](bool stored) {
      const Setting s{.stage = 2, .stored_gradients = stored, .disk = TestDisk{}};
      const auto arena = Arena::make_cpu(1 << 26);
      const std::unique_ptr<TrainableModel> model = tiny_model(s);
      const OptimizerGroups optimizer = make_groups(model->params(), "adamw");
      TrainEngine engine(*arena, *model, optimizer, engine_options(s, 1),
                         {comm, disk_stores(optimizer, comm, *s.disk)});
      InitSource source(3, 0.3);
      engine.load(source);
      std::vector<StepResult> results;
      for (int step = 1; step <= 3; ++step) {
        std::vector<Batch> batches = batches_of(comm.rank(), ranks, 1, -1);
        if (step == 2) batches[0].weights[3] = std::numeric_limits<float>::infinity();
        results.push_back(engine.step(batches, step, 1e-3));
      }
      return results;
    };
    const std::vector<StepResult> want = play(false), got = play(true);
    EXPECT_TRUE(got[1].skipped);
    EXPECT_EQ(got[1].first_bad, want[1].first_bad);
    EXPECT_EQ(got[2].loss, want[2].loss);
    EXPECT_EQ(got[2].grad_norm, want[2].grad_norm);
  });
}

// Memory is the planned one, and has no more gradients at once than come while some are written.
TEST_P(StoredGradients, MemoryAndTrafficAreThePlanned) {
  const int ranks = GetParam();
  for (const int accumulation_steps : {1, 3}) {
    const Setting s{.stage = 2,
                    .accumulation_steps = accumulation_steps,
                    .dtype = DType::kBF16,
                    .comm_dtype = DType::kBF16,
                    .master = MasterFormat::kSplit,
                    .stored_gradients = true};
    const std::unique_ptr<TrainableModel> model = tiny_model(s);
    const OptimizerGroups optimizer = make_groups(model->params(), "adamw");
    const TempDir dir("gradients");
    const auto play = [&](Arena& arena, Communicator& comm) {
      OffloadStores stores({.state = true, .gradients = true, .directory = dir.path()}, optimizer,
                           comm, {.identity = "test", .recovered = {}});
      arena.begin_phase("load");
      TrainEngine engine(arena, *model, optimizer, engine_options(s, accumulation_steps),
                         {comm, stores.stores()});
      InitSource source(3, 0.3);
      engine.load(source);
      arena.begin_phase("step");
      DiskTraffic before;
      for (int step = 1; step <= 2; ++step) {
        before = stores.home()->traffic();
        engine.step(batches_of(comm.rank(), ranks, accumulation_steps, -1), step, 1e-3);
      }
      const DiskTraffic after = stores.home()->traffic();
      return DiskTraffic{after.read - before.read, after.written - before.written};
    };
    run_ranks(ranks, [&](Communicator& comm) {
      const auto plan = Arena::make_planning();
      PlanningCommunicator planned(comm.rank(), ranks);
      const DiskTraffic want = play(*plan, planned);
      const auto arena = Arena::make_cpu(plan->extent_bytes());
      const DiskTraffic got = play(*arena, comm);
      EXPECT_EQ(plan->peaks(), arena->peaks());
      EXPECT_EQ(arena->live_bytes(), 0);
      EXPECT_EQ(got.written, want.written);
      EXPECT_GE(got.read, want.read) << "whole blocks";
      if (ranks > 1 || tests_train_odd_model()) return;
      // AdamW, split16: remainder and two moments; the weight is written too. Then the gradients.
      const std::int64_t n = model->params().num_elements();
      std::int64_t once = 0;
      {
        const auto planning = Arena::make_planning();
        const TrainEngine engine(*planning, *model, optimizer,
                                 engine_options(s, accumulation_steps));
        for (const ParamId id : model->params().ids())
          once += engine.table().find(id, StateKind::kGradient)->bytes();
      }
      EXPECT_GE(once, accumulation_steps == 1 ? 2 * n : 4 * n);
      EXPECT_EQ(want.written, n * 12 + once * accumulation_steps);
      EXPECT_EQ(want.read, n * 10 + once * accumulation_steps);
    });
  }
}

TEST_P(StoredGradients, NeedRowsOfTheirOwn) {
  const int ranks = GetParam();
  const auto refusal = [&](const Setting& s) {
    std::string text;
    run_ranks(ranks, [&](Communicator& comm) {
      try {
        train(comm, s, batches_of(comm.rank(), ranks, 1, -1));
      } catch (const UserError& e) {
        if (comm.rank() == 0) text = e.what();
      }
    });
    return text;
  };
  const std::string fused = refusal(
      {.stage = 2, .fused = true, .clip_mode = ClipMode::kLagged, .stored_gradients = true});
  EXPECT_NE(fused.find("optimizer.fused_backward = true"), std::string::npos) << fused;
  if (ranks == 1) return;
  const std::string stage = refusal({.stage = 1, .stored_gradients = true});
  EXPECT_NE(stage.find("parallelism.zero_stage = 2 or 3"), std::string::npos) << stage;
}

INSTANTIATE_TEST_SUITE_P(Ranks, StoredGradients, testing::Values(1, 3));

}  // namespace
}  // namespace thimble
