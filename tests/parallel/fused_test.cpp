// Updates within the backward pass: the bits of updates after it, the memory that was planned, and
// gradients that are never all there.
#include <limits>
#include <set>
#include <string_view>

#include "tests/parallel/tiny_training.h"

namespace thimble {
namespace {

class FusedTest : public testing::TestWithParam<int> {};

TEST_P(FusedTest, TwoPassesGiveTheBitsOfOneUpdate) {
  const int ranks = GetParam();
  for (const OptimizerEntry& entry : optimizer_entries()) {
    for (const int stage : stages_of_tests(entry.int8_weights ? 2 : 3)) {
      for (const int accumulation_steps : {1, 3}) {
        // Accumulation at every stage for one of each kind: by elements, rows and subspaces.
        static const std::set<std::string_view> kLong{"adamw", "apollo", "galore"};
        if (accumulation_steps > 1 && stage != ranks % 3 && !kLong.contains(entry.name)) continue;
        Setting s{.optimizer = entry.name,
                  .stage = stage,
                  .accumulation_steps = accumulation_steps,
                  .dtype = DType::kBF16,
                  .comm_dtype = DType::kBF16,
                  .tied = true};
        run_ranks(ranks, [&](Communicator& comm) {
          const auto batches = batches_of(comm.rank(), ranks, accumulation_steps, -1);
          const Outcome plain = train(comm, s, batches);
          Setting fused = s;
          fused.fused = true;
          fused.clip_mode = ClipMode::kTwoPass;
          const Outcome got = train(comm, fused, batches);
          EXPECT_EQ(got.losses, plain.losses) << entry.name << " stage " << stage;
          EXPECT_EQ(got.norms, plain.norms);
          EXPECT_EQ(got.masters, plain.masters) << entry.name << " stage " << stage;
        });
      }
    }
  }
}

TEST_P(FusedTest, WithoutClippingEveryModeIsOneUpdate) {
  const int ranks = GetParam();
  for (const ClipMode mode : {ClipMode::kLagged, ClipMode::kPerTensor, ClipMode::kExact}) {
    for (int stage = 0; stage <= 3; ++stage) {
      Setting s{.optimizer = "apollo", .stage = stage, .max_grad_norm = 0};
      run_ranks(ranks, [&](Communicator& comm) {
        const auto batches = batches_of(comm.rank(), ranks, 1, -1);
        const Outcome plain = train(comm, s, batches);
        Setting fused = s;
        fused.fused = true;
        fused.clip_mode = mode;
        EXPECT_EQ(train(comm, fused, batches).masters, plain.masters) << stage;
      });
    }
  }
}

// Step 2 of a lagged run goes by the norm of step 1; step 1 by none.
TEST_P(FusedTest, LaggedClippingGoesByTheStepBefore) {
  run_ranks(GetParam(), [&](Communicator& comm) {
    const auto batches = batches_of(comm.rank(), comm.size(), 1, -1);
    const Setting s{.optimizer = "sgd",
                    .stage = 1,
                    .fused = true,
                    .clip_mode = ClipMode::kLagged,
                    .max_grad_norm = 1e-3};
    const Outcome lagged = train(comm, s, batches);
    Setting none = s, exact = s;
    none.max_grad_norm = 0;
    exact.fused = false;
    exact.clip_mode = ClipMode::kExact;
    EXPECT_EQ(lagged.losses[1], train(comm, none, batches).losses[1]);
    EXPECT_NE(lagged.losses[1], train(comm, exact, batches).losses[1]);
    EXPECT_NE(lagged.losses[2], train(comm, none, batches).losses[2]);
  });
}

TEST_P(FusedTest, MemoryIsPlannedAndGradientsAreNeverAllThere) {
  const int ranks = GetParam();
  for (const int accumulation_steps : {1, 3}) {
    for (int stage = 1; stage <= 3; ++stage) {
      std::int64_t gradients[2] = {};
      for (const bool fused : {false, true}) {
        Setting s{.optimizer = "galore",
                  .stage = stage,
                  .accumulation_steps = accumulation_steps,
                  .dtype = DType::kBF16,
                  .comm_dtype = DType::kBF16,
                  .fused = fused,
                  .clip_mode = fused ? ClipMode::kPerTensor : ClipMode::kExact};
        const std::unique_ptr<TrainableModel> made = tiny_model(s);
        const TrainableModel& model = *made;
        const OptimizerGroups optimizer = make_groups(model.params(), s.optimizer);
        const auto play = [&](Arena& arena, Communicator& comm) {
          TrainEngine engine(arena, model, optimizer, engine_options(s, accumulation_steps),
                             {comm, stores_of_tests(model, optimizer, comm, s.stage)});
          InitSource source(3, 0.3);
          engine.load(source);
          arena.begin_phase("step");
          const auto batches = batches_of(comm.rank(), ranks, accumulation_steps, -1);
          for (int step = 1; step <= 3; ++step) engine.step(batches, step, 1e-3);
        };
        run_ranks(ranks, [&](Communicator& comm) {
          const auto plan = Arena::make_planning();
          PlanningCommunicator planned(comm.rank(), ranks);
          play(*plan, planned);
          const auto arena = Arena::make_cpu(plan->extent_bytes());
          play(*arena, comm);
          EXPECT_EQ(plan->peaks(), arena->peaks()) << "stage " << stage;
          if (comm.rank() == 0) {
            gradients[fused ? 1 : 0] =
                arena->peak().by_tag[static_cast<std::size_t>(MemoryTag::kGradients)];
          }
        });
      }
      if (ranks == 1 && accumulation_steps == 1) {
        EXPECT_LT(gradients[1], gradients[0] / 2);
      }
      EXPECT_LE(gradients[1], gradients[0]) << stage;
    }
  }
}

TEST_P(FusedTest, AnInfiniteLossChangesNothing) {
  run_ranks(GetParam(), [&](Communicator& comm) {
    const Setting s{.stage = 1, .fused = true, .clip_mode = ClipMode::kPerTensor};
    const auto arena = Arena::make_cpu(1 << 26);
    const std::unique_ptr<TrainableModel> made = tiny_model(s);
    const TrainableModel& model = *made;
    const OptimizerGroups optimizer = make_groups(model.params(), s.optimizer);
    TrainEngine engine(*arena, model, optimizer, engine_options(s, 1),
                       {comm, stores_of_tests(model, optimizer, comm, s.stage)});
    InitSource source(3, 0.3);
    engine.load(source);
    const auto weights = [&] {
      std::vector<std::vector<float>> all;
      for (const ParamId id : model.params().ids()) all.push_back(shown_weight(engine, id));
      return all;
    };
    const auto before = weights();
    auto batches = batches_of(comm.rank(), comm.size(), 1, -1);
    if (comm.rank() == comm.size() - 1) {
      for (float& w : batches[0].weights) w *= std::numeric_limits<float>::infinity();
    }
    const StepResult bad = engine.step(batches, 1, 1e-3);
    EXPECT_TRUE(bad.skipped);
    EXPECT_EQ(weights(), before);
    EXPECT_FALSE(engine.step(batches_of(comm.rank(), comm.size(), 1, -1), 2, 1e-3).skipped);
    EXPECT_NE(weights(), before);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, FusedTest, testing::Values(1, 2, 3, 4));

}  // namespace
}  // namespace thimble
