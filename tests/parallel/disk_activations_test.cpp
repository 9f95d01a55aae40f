// Activations on disk between the passes: the bits of activations in memory, in the planned memory.
#include "tests/parallel/tiny_training.h"

namespace thimble {
namespace {

constexpr Recompute kEveryRecompute[] = {Recompute::kNone, Recompute::kSelective, Recompute::kFull};

class DiskActivations : public testing::TestWithParam<int> {};

TEST_P(DiskActivations, GiveTheBitsOfThoseInMemory) {
  const int ranks = GetParam();
  for (const Recompute recompute : kEveryRecompute) {
    for (const int accumulation_steps : {1, 3}) {
      for (const bool fused : {false, true}) {
        const Setting s{.stage = ranks == 1 ? 0
                                 : fused    ? 3
                                            : 1,
                        .accumulation_steps = accumulation_steps,
                        .empty = 0,
                        .dtype = fused ? DType::kBF16 : DType::kF32,
                        .tied = fused,
                        .recompute = recompute,
                        .fused = fused,
                        .clip_mode = fused ? ClipMode::kTwoPass : ClipMode::kExact};
        Setting away = s;
        away.activations = ActivationPlace::kSsd;
        run_ranks(ranks, [&](Communicator& comm) {
          const auto batches = batches_of(comm.rank(), ranks, accumulation_steps, s.empty);
          const Outcome want = train(comm, s, batches), got = train(comm, away, batches);
          const std::string where =
              fmt::format("{} {} {}", static_cast<int>(recompute), accumulation_steps, fused);
          EXPECT_EQ(got.losses, want.losses) << where;
          EXPECT_EQ(got.norms, want.norms) << where;
          EXPECT_TRUE(got.grads == want.grads) << where;
          EXPECT_TRUE(got.masters == want.masters) << where;
        });
      }
    }
  }
}

TEST_P(DiskActivations, TakeThePlannedMemory) {
  const int ranks = GetParam();
  for (const Recompute recompute : kEveryRecompute) {
    const Setting kept{.stage = 1, .accumulation_steps = 3, .recompute = recompute};
    const std::unique_ptr<TrainableModel> made = tiny_model(kept);
    const TrainableModel& model = *made;
    const OptimizerGroups optimizer = make_groups(model.params(), kept.optimizer);
    const auto play = [&](Arena& arena, Communicator& comm, const Setting& s) {
      TrainEngine engine(arena, model, optimizer, engine_options(s, 3),
                         {comm, stores_of(s, model, optimizer, comm)});
      InitSource source(3, 0.3);
      engine.load(source);
      arena.begin_phase("step");
      const auto batches = batches_of(comm.rank(), ranks, 3, -1);
      for (int step = 1; step <= 2; ++step) engine.step(batches, step, 1e-3);
    };
    run_ranks(ranks, [&](Communicator& comm) {
      std::int64_t most[2] = {};
      for (const bool away : {false, true}) {
        Setting s = kept;
        if (away) s.activations = ActivationPlace::kSsd;
        const auto plan = Arena::make_planning();
        PlanningCommunicator planned(comm.rank(), ranks);
        play(*plan, planned, s);
        const auto arena = Arena::make_cpu(plan->extent_bytes());
        play(*arena, comm, s);
        EXPECT_EQ(plan->peaks(), arena->peaks());
        most[away] = arena->peak().by_tag[static_cast<std::size_t>(MemoryTag::kActivations)];
      }
      if (recompute == Recompute::kNone) {
        EXPECT_LT(most[1], most[0] * 2 / 3);
      } else {
        EXPECT_LE(most[1], most[0]);
      }
    });
  }
}

// Some blocks are computed again, of the others what they keep is in memory or on disk.
TEST_P(DiskActivations, AShareOfTheBlocksGivesTheSameBits) {
  const int ranks = GetParam();
  const Setting none{.stage = ranks == 1 ? 0 : 3, .accumulation_steps = 2};
  run_ranks(ranks, [&](Communicator& comm) {
    const auto batches = batches_of(comm.rank(), ranks, 2, -1);
    const Outcome want = train(comm, none, batches);
    for (const double share : {0.0, 0.25, 0.5, 0.7, 1.0}) {
      for (const bool on_disk : {false, true}) {
        Setting s = none;
        s.recompute = Recompute::kFull;
        s.recompute_share = share;
        s.by_layers = on_disk && share == 0.5;
        if (on_disk) s.activations = ActivationPlace::kSsd;
        expect_same(train(comm, s, batches), want, fmt::format("{} {}", share, on_disk));
      }
    }
  });
}

TEST(RecomputeShare, KeepsMoreTheLessIsComputedAgain) {
  ModelConfig config = odd_config(false);
  config.num_layers = 16;
  config.windows.assign(16, 0);
  const Transformer model(config);
  const OptimizerGroups optimizer = make_groups(model.params(), "adamw");
  std::vector<std::int64_t> most;
  for (const double share : {1.0, 0.75, 0.5, 0.0}) {
    const Setting s{.recompute = Recompute::kFull, .recompute_share = share};
    const auto plan = Arena::make_planning();
    TrainEngine engine(*plan, model, optimizer, engine_options(s, 1));
    engine.step(batches_of(0, 1, 1, -1), 1, 1e-3);
    most.push_back(plan->peak().by_tag[static_cast<std::size_t>(MemoryTag::kActivations)]);
  }
  EXPECT_TRUE(std::is_sorted(most.begin(), most.end()));
  EXPECT_LT(most.front(), most.back());
}

INSTANTIATE_TEST_SUITE_P(Ranks, DiskActivations, testing::Values(1, 2));

}  // namespace
}  // namespace thimble
