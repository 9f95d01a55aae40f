// Adapters are parameters like others: every stage, saver and store trains them, and the frozen
// model takes no gradient and no state.
#include "tests/parallel/tiny_training.h"

namespace thimble {
namespace {

AdapterConfig tiny_adapter(bool dora) {
  AdapterConfig config;
  config.rank = 3;
  config.alpha = 5;
  config.dora = dora;
  return config;
}

TEST(AdapterRanks, OnePassOnRanksIsManyPassesOnOneBitForBit) {
  for (const bool dora : {false, true}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      Setting s{.dtype = dtype, .tied = dora, .odd_model = false, .adapter = tiny_adapter(dora)};
      const Outcome want = reference(s, 3);
      const std::unique_ptr<TrainableModel> model = tiny_model(s);
      for (s.stage = 0; s.stage <= 3; ++s.stage) {
        s.hostile = s.stage == 3;
        run_ranks(3, [&](Communicator& comm) {
          const Outcome got = train(comm, s, batches_of(comm.rank(), 3, 1, -1));
          EXPECT_EQ(got.losses, want.losses) << "stage " << s.stage;
          for (const ParamId id : model->params().ids()) {
            const auto i = static_cast<std::size_t>(id);
            const ParamInfo& info = model->params().info(id);
            EXPECT_EQ(got.masters[i], rows_of(want.masters[i], info, got.slices[i]))
                << info.name << " stage " << s.stage;
          }
        });
      }
    }
  }
}

// Recomputing, other orders and other places of state give the same bits.
TEST(AdapterRanks, EverySaverGivesTheSameBits) {
  Setting s{.accumulation_steps = 3,
            .dtype = DType::kBF16,
            .odd_model = false,
            .adapter = tiny_adapter(true)};
  const Outcome want = reference(s, 1);
  const auto same = [&](const char* what, auto&& change) {
    Setting other = s;
    change(other);
    expect_same(reference(other, 1), want, what);
  };
  same("full", [](Setting& o) { o.recompute = Recompute::kFull; });
  same("selective", [](Setting& o) { o.recompute = Recompute::kSelective; });
  same("by layers", [](Setting& o) { o.by_layers = true; });
  same("on disk", [](Setting& o) { o.disk = TestDisk{}; });
  same("hostile", [](Setting& o) { o.hostile = true; });
}

TEST(AdapterRanks, OptimizersTrainThem) {
  for (const char* name : {"adamw_8bit", "lion", "muon", "adafactor"}) {
    Setting s{.optimizer = name,
              .dtype = DType::kBF16,
              .master = MasterFormat::kSplit,
              .odd_model = false,
              .adapter = tiny_adapter(false)};
    const Outcome got = reference(s, 1);
    EXPECT_LT(got.losses[2], got.losses[0]) << name;
  }
}

// Only what is trained has state or a gradient.
TEST(AdapterRanks, TheFrozenModelCostsItsWeightsAlone) {
  Setting s{.dtype = DType::kBF16, .odd_model = false, .adapter = tiny_adapter(false)};
  const std::unique_ptr<TrainableModel> model = tiny_model(s);
  const OptimizerGroups optimizer = make_groups(model->params(), "adamw");
  const auto arena = Arena::make_cpu(1 << 26);
  SingleCommunicator alone;
  EngineOptions options = engine_options(s, 1);
  options.leaves_frozen = true;
  TrainEngine engine(*arena, *model, optimizer, options, {alone, {}});
  std::int64_t trained = 0;
  for (const ParamId id : model->params().ids()) {
    const ParamInfo& info = model->params().info(id);
    if (info.trainable) trained += info.shape.numel();
    if (info.trainable) continue;
    EXPECT_EQ(engine.table().of(id).size(), 1u) << info.name;
    for (const StateEntry& entry : engine.table().of(id))
      EXPECT_TRUE(info.trainable || !entry.saved) << info.name;
  }
  const auto of = [&](MemoryTag tag) {
    std::int64_t bytes = 0;
    for (const StateEntry& entry : engine.table().entries())
      bytes += entry.tag == tag ? entry.bytes() : 0;
    return bytes;
  };
  EXPECT_EQ(of(MemoryTag::kMaster), 4 * trained);
  EXPECT_EQ(of(MemoryTag::kOptimizer), 8 * trained);
  EXPECT_EQ(of(MemoryTag::kWeights), 2 * model->params().num_elements());
}

}  // namespace
}  // namespace thimble
