// Micro-batches that go through the model layer by layer together: the bits of one after the other,
// weights that are read twice in a step however many there are, and the planned bytes.
#include "tests/parallel/tiny_training.h"

namespace thimble {
namespace {

class LayerOrder : public testing::TestWithParam<int> {
 protected:
  // Both orders on all ranks, from the same batches.
  static void expect_same_bits(const Setting& s, int micro_batches, const std::string& where) {
    const int ranks = GetParam();
    run_ranks(ranks, [&](Communicator& comm) {
      const auto batches = batches_of(comm.rank(), ranks, micro_batches, s.empty);
      Setting layers = s;
      layers.by_layers = true;
      expect_same(train(comm, layers, batches), train(comm, s, batches), where);
    });
  }
};

// Every value with every other at least once, not all of all.
TEST_P(LayerOrder, IsOneAfterTheOtherBitForBit) {
  const int ranks = GetParam();
  const std::array recomputes{Recompute::kNone, Recompute::kSelective, Recompute::kFull};
  int n = 0;
  for (const std::string optimizer : {"adamw", "galore", "muon", "badam"}) {
    for (int stage = 0; stage <= (ranks == 1 ? 0 : 3); ++stage) {
      for (const bool tied : {false, true}) {
        ++n;
        const Setting s{.optimizer = optimizer,
                        .stage = stage,
                        .empty = n % 3 == 0 ? 1 : -1,
                        .dtype = n % 2 == 0 ? DType::kBF16 : DType::kF32,
                        .tied = tied,
                        .wide = n % 4 < 2,
                        .recompute = recomputes[static_cast<std::size_t>(n % 3)],
                        .project_gradients = optimizer == "galore" && stage != 0};
        expect_same_bits(s, 2 + n % 2, fmt::format("{} stage {} {}", optimizer, stage, tied));
      }
    }
  }
}

TEST_P(LayerOrder, WithUpdatesInTheBackwardPass) {
  for (const ClipMode mode : {ClipMode::kTwoPass, ClipMode::kLagged, ClipMode::kPerTensor}) {
    for (const bool project : {false, true}) {
      const Setting s{.optimizer = project ? "galore" : "adamw",
                      .stage = GetParam() == 1 ? 0
                               : project       ? 3
                                               : 2,
                      .tied = project,
                      .recompute = project ? Recompute::kNone : Recompute::kFull,
                      .fused = true,
                      .clip_mode = mode,
                      .project_gradients = project};
      expect_same_bits(s, 3, fmt::format("mode {} {}", static_cast<int>(mode), project));
    }
  }
}

TEST_P(LayerOrder, WithAllOfItOnDisk) {
  struct Where {
    bool gradients, delayed, activations, fused;
  };
  for (const Where w : {Where{true, false, true, false}, Where{false, true, false, false},
                        Where{true, true, true, false}, Where{false, false, true, true}}) {
    for (const bool tied : {false, true}) {
      Setting s{.stage = 3,
                .dtype = DType::kBF16,
                .tied = tied,
                .recompute = tied ? Recompute::kFull : Recompute::kNone,
                .master = MasterFormat::kSplit,
                .fused = w.fused,
                .clip_mode = w.fused ? ClipMode::kTwoPass : ClipMode::kExact,
                .stored_gradients = w.gradients,
                .delayed_update = w.delayed,
                .disk = TestDisk{.slots = tied ? 1 : 2, .weights = true}};
      if (w.activations) s.activations = ActivationPlace::kSsd;
      expect_same_bits(
          s, 3,
          fmt::format("{} {} {} {} {}", w.gradients, w.delayed, w.activations, w.fused, tied));
    }
  }
}

// A step whose loss is not finite changes nothing, and the one after it is a step like any other.
TEST_P(LayerOrder, AStepThatIsSkippedLeavesNothing) {
  const int ranks = GetParam();
  for (const bool fused : {false, true}) {
    run_ranks(ranks, [&](Communicator& comm) {
      const Setting s{.stage = ranks == 1 ? 0 : 2,
                      .fused = fused,
                      .clip_mode = fused ? ClipMode::kPerTensor : ClipMode::kExact,
                      .by_layers = true};
      const auto arena = Arena::make_cpu(1 << 26);
      const std::unique_ptr<TrainableModel> model = tiny_model(s);
      const OptimizerGroups optimizer = make_groups(model->params(), "adamw");
      TrainEngine engine(*arena, *model, optimizer, engine_options(s, 2),
                         {comm, stores_of(s, *model, optimizer, comm)});
      InitSource source(3, 0.3);
      engine.load(source);
      const auto batches = batches_of(comm.rank(), ranks, 2, -1);
      engine.step(batches, 1, 1e-3);
      const std::uint64_t layout = arena->layout_hash();
      std::vector<Batch> bad = batches;
      bad[1].weights[0] = std::numeric_limits<float>::infinity();
      const std::vector<float> before = own_weights(engine, ParamId{0});
      EXPECT_TRUE(engine.step(bad, 2, 1e-3).skipped);
      EXPECT_EQ(own_weights(engine, ParamId{0}), before);
      EXPECT_EQ(arena->layout_hash(), layout);
      EXPECT_FALSE(engine.step(batches, 3, 1e-3).skipped);
    });
  }
}

TEST_P(LayerOrder, SendsAndKeepsWhatIsPlanned) {
  const int ranks = GetParam();
  for (int stage = 0; stage <= 3; ++stage) {
    for (const int count : {2, 4}) {
      const Setting s{.stage = stage,
                      .dtype = DType::kBF16,
                      .comm_dtype = DType::kBF16,
                      .recompute = Recompute::kFull,
                      .by_layers = true,
                      .odd_model = false};
      const std::unique_ptr<TrainableModel> model = tiny_model(s);
      const OptimizerGroups optimizer = make_groups(model->params(), "adamw");
      const auto play = [&](Arena& arena, Communicator& comm) {
        arena.begin_phase("load");
        TrainEngine engine(arena, *model, optimizer, engine_options(s, count), {comm});
        InitSource source(3, 0.3);
        engine.load(source);
        arena.begin_phase("step");
        const auto batches = batches_of(comm.rank(), ranks, count, -1);
        const std::int64_t before = comm.traffic().tensor_bytes;
        engine.step(batches, 1, 1e-3);
        const StepTraffic traffic = engine.parallel().step_traffic(
            model->params(), comm.rank(),
            {.micro_batches = count,
             .weight_passes = 1,
             .gathers_per_micro_batch = model->gathers_per_micro_batch()});
        EXPECT_EQ(comm.traffic().tensor_bytes - before, ranks == 1 ? 0 : traffic.total())
            << stage << " " << count;
        engine.step(batches, 2, 1e-3);
      };
      run_ranks(ranks, [&](Communicator& comm) {
        const auto plan = Arena::make_planning();
        PlanningCommunicator planned(comm.rank(), ranks);
        play(*plan, planned);
        const auto arena = Arena::make_cpu(plan->extent_bytes());
        play(*arena, comm);
        EXPECT_EQ(plan->peaks(), arena->peaks()) << stage << " " << count;
        EXPECT_EQ(arena->live_bytes(), 0);
      });
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, LayerOrder, testing::Values(1, 2, 3));

// Every layer twice, the embedding and the LM head once, however many micro-batches there are.
TEST(LayerOrderDisk, ReadsWeightsTwiceAStep) {
  for (const bool by_layers : {false, true}) {
    std::vector<std::int64_t> read, planned;
    for (const int count : {2, 3, 5}) {
      const Setting s{.dtype = DType::kBF16,
                      .recompute = Recompute::kFull,
                      .master = MasterFormat::kSplit,
                      .by_layers = by_layers,
                      .odd_model = false};
      const std::unique_ptr<TrainableModel> model = tiny_model(s);
      const OptimizerGroups optimizer = make_groups(model->params(), "adamw");
      SingleCommunicator comm;
      const TempDir dir("layers");
      const auto play = [&](Arena& arena) {
        OffloadStores stores({.state = true, .weights = true, .directory = dir.path()}, optimizer,
                             comm, {.identity = "test", .recovered = {}});
        TrainEngine engine(arena, *model, optimizer, engine_options(s, count), stores.stores());
        InitSource source(3, 0.3);
        engine.load(source);
        engine.step(batches_of(0, 1, count, -1), 1, 1e-3);
        const std::int64_t before = stores.home()->traffic().read;
        engine.step(batches_of(0, 1, count, -1), 2, 1e-3);
        return stores.home()->traffic().read - before;
      };
      const auto planning = Arena::make_planning();
      const auto arena = Arena::make_cpu(1 << 26);
      read.push_back(play(*arena));
      planned.push_back(play(*planning));
      std::int64_t weights = 0;
      const std::vector<int> gathers = model->gathers_per_micro_batch();
      for (const ParamId id : model->params().ids())
        weights +=
            model->params().info(id).shape.numel() * 2 * gathers[static_cast<std::size_t>(id)];
      const std::int64_t times = by_layers ? 0 : count - 2;
      // Small arrays are read with the rest of their blocks, which a plan does not count.
      EXPECT_EQ(read.back(), read.front() + times * weights) << by_layers << " " << count;
      EXPECT_EQ(planned.back(), planned.front() + times * weights) << by_layers << " " << count;
    }
  }
}

}  // namespace
}  // namespace thimble
