// Weights on disk: the bits of weights in memory, of which never more than two blocks are there;
// what the disk has changed is found, and what cannot be is refused.
#include <fstream>

#include "models/decoder.h"
#include "models/hf_export.h"
#include "tests/parallel/tiny_training.h"

namespace thimble {
namespace {

constexpr TestDisk kWeightsOnDisk{.slots = 2, .weights = true};

class DiskWeights : public testing::TestWithParam<int> {};

TEST_P(DiskWeights, AreThoseInMemoryBitForBit) {
  const int ranks = GetParam();
  struct Format {
    DType dtype;
    MasterFormat master;
  };
  for (const Format f :
       {Format{DType::kBF16, MasterFormat::kSplit}, Format{DType::kBF16, MasterFormat::kF32},
        Format{DType::kBF16, MasterFormat::kNone}, Format{DType::kF32, MasterFormat::kF32}}) {
    for (const std::string optimizer : {"adamw", "galore", "apollo", "muon", "badam"}) {
      // Every optimizer in one format, every format with one of each kind.
      const bool other_kinds = optimizer == "adamw" || optimizer == "galore";
      if (f.master != MasterFormat::kSplit && !other_kinds) continue;
      for (const bool fused : {false, true}) {
        const std::string where = fmt::format("{} {} {} {}", dtype_name(f.dtype),
                                              static_cast<int>(f.master), optimizer, fused);
        Setting s{.optimizer = optimizer,
                  .stage = 3,
                  .accumulation_steps = fused ? 2 : 1,
                  .dtype = f.dtype,
                  .comm_dtype = DType::kF32,
                  .tied = fused,
                  .wide = optimizer[0] == 'a',
                  .recompute = fused ? Recompute::kFull : Recompute::kSelective,
                  .master = f.master,
                  .fused = fused,
                  .clip_mode = fused ? ClipMode::kTwoPass : ClipMode::kExact};
        run_ranks(ranks, [&](Communicator& comm) {
          const auto batches = batches_of(comm.rank(), ranks, s.accumulation_steps, -1);
          Setting disk = s, in_place = s;
          disk.disk = kWeightsOnDisk;
          in_place.disk = TestDisk{.slots = 1, .weights = true};
          const Outcome want = train(comm, s, batches);
          expect_same(train(comm, disk, batches), want, where);
          if (optimizer == "adamw")
            expect_same(train(comm, in_place, batches), want, where + " in place");
        });
      }
    }
  }
}

// Matrices that are read past the page cache, and rows that begin anywhere in a block of the disk.
TEST_P(DiskWeights, AreReadRightIntoLargeMatrices) {
  const int ranks = GetParam();
  ModelConfig config = odd_config(false);
  config.hidden_size = 168;
  config.intermediate_size = 323;
  config.vocab_size = 409;
  config.num_layers = 2;
  config.windows = {0, 0};
  for (const MasterFormat master : {MasterFormat::kSplit, MasterFormat::kF32}) {
    run_ranks(ranks, [&](Communicator& comm) {
      const Setting s{.stage = 3, .dtype = DType::kBF16, .master = master, .small_elements = 200};
      const auto play = [&](bool on_disk, std::vector<double>& losses) {
        const auto arena = Arena::make_cpu(1 << 26);
        arena->set_poison(true);
        const Transformer model(config);
        const OptimizerGroups optimizer = make_groups(model.params(), "adamw");
        TrainEngine engine(
            *arena, model, optimizer, engine_options(s, 1),
            {comm, on_disk ? disk_stores(optimizer, comm, kWeightsOnDisk) : EngineStores{}});
        InitSource source(3, 0.1);
        engine.load(source);
        for (int step = 1; step <= 3; ++step)
          losses.push_back(engine.step(batches_of(comm.rank(), ranks, 1, -1), step, 1e-3).loss);
        std::vector<std::vector<float>> weights;
        for (const ParamId id : model.params().ids()) weights.push_back(shown_weight(engine, id));
        return weights;
      };
      std::vector<double> want, got;
      const auto in_memory = play(false, want), on_disk = play(true, got);
      EXPECT_EQ(got, want);
      EXPECT_TRUE(on_disk == in_memory);
    });
  }
}

TEST_P(DiskWeights, TakeStageThree) {
  const int ranks = GetParam();
  if (ranks == 1) return;
  run_ranks(ranks, [&](Communicator& comm) {
    const Setting s{.stage = 2, .disk = kWeightsOnDisk};
    try {
      train(comm, s, batches_of(comm.rank(), ranks, 1, -1));
      ADD_FAILURE() << "trained at stage 2";
    } catch (const UserError& e) {
      EXPECT_NE(std::string(e.what()).find("needs parallelism.zero_stage = 3"), std::string::npos)
          << e.what();
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, DiskWeights, testing::Values(1, 3));

// An engine of one rank with a model of many like layers, and its stores.
struct DeepEngine {
  explicit DeepEngine(Arena& arena, bool frozen = false, MasterFormat master = MasterFormat::kSplit,
                      OffloadedRun run = {.identity = "test", .recovered = {}})
      : model(config()), optimizer(make(model, frozen)) {
    const OffloadSpec spec{.state = true,
                           .weights = true,
                           .directory = directory.path(),
                           .window_bytes = 32 * kKiB,
                           .slots = 2,
                           .files_of_ranks = false};
    stores.emplace(spec, optimizer, comm, std::move(run));
    engine.emplace(arena, model, optimizer,
                   engine_options({.dtype = DType::kBF16, .master = master}, 1), stores->stores());
  }
  static ModelConfig config() {
    ModelConfig c = odd_config(false);
    c.num_layers = 8;
    c.windows.assign(8, 0);
    return c;
  }
  static OptimizerGroups make(Transformer& model, bool frozen) {
    for (const ParamId id : model.params().ids()) {
      if (frozen && model.params().info(id).layer < 4) model.params().set_trainable(id, false);
    }
    return make_groups(model.params(), "adamw");
  }
  void load() {
    InitSource source(3, 0.3);
    engine->load(source);
  }
  void step(std::int64_t number) {
    const Batch batch = micro_batch(static_cast<int>(number));
    engine->step(std::span(&batch, 1), number, 1e-3);
  }
  TempDir directory{"weights"};
  SingleCommunicator comm;
  Transformer model;
  OptimizerGroups optimizer;
  std::optional<OffloadStores> stores;
  std::optional<TrainEngine> engine;
};

// The most that two neighbouring blocks take, in the arena's steps.
std::int64_t bytes_of_two_blocks(const Transformer& model) {
  std::vector<std::int64_t> bytes;
  for (const auto& ids : model.block_params()) {
    bytes.push_back(0);
    for (const ParamId id : ids)
      bytes.back() += round_up(2 * model.params().info(id).shape.numel(), 64);
  }
  std::int64_t most = 0;
  for (std::size_t i = 0; i + 1 < bytes.size(); ++i) most = std::max(most, bytes[i] + bytes[i + 1]);
  return most;
}

TEST(DiskWeightsOfOneRank, AreTwoBlocksAtMost) {
  const TempDir exported("export");
  const auto play = [&](Arena& arena) {
    DeepEngine deep(arena);
    arena.begin_phase("load");
    deep.load();
    arena.begin_phase("step");
    for (int step = 1; step <= 2; ++step) deep.step(step);
    arena.begin_phase("eval");
    deep.engine->evaluate(micro_batch(5));
    arena.begin_phase("decode");
    Decoder decoder(arena, deep.model, deep.engine->store(), DType::kBF16, 16);
    for (int i = 0; i < 4; ++i)
      static_cast<void>(
          decoder.feed(std::vector<std::int32_t>(static_cast<std::size_t>(i + 1), 3)));
    arena.begin_phase("export");
    export_hf(arena, deep.model, deep.engine->store(),
              {.directory = exported.path() / "model", .dtype = DType::kBF16});
  };
  const auto plan = Arena::make_planning(), arena = Arena::make_cpu(1 << 26);
  play(*plan);
  play(*arena);
  EXPECT_EQ(plan->peaks(), arena->peaks());
  const Transformer model(DeepEngine::config());
  const std::int64_t most = bytes_of_two_blocks(model);
  EXPECT_GT(2 * model.config().num_parameters(), 2 * most);
  EXPECT_EQ(arena->peaks().size(), 6u);
  for (const MemoryPeak& peak : arena->peaks()) {
    const std::int64_t weights = peak.by_tag[static_cast<std::size_t>(MemoryTag::kWeights)];
    EXPECT_LE(weights, most) << peak.phase;
    EXPECT_EQ(peak.by_tag[static_cast<std::size_t>(MemoryTag::kMaster)], 0) << peak.phase;
  }
}

TEST(DiskWeightsOfOneRank, AreWrittenByUpdatesAlone) {
  const auto plan = Arena::make_planning(), arena = Arena::make_cpu(1 << 26);
  for (const bool frozen : {false, true}) {
    std::int64_t written[2] = {}, read[2] = {};
    for (const bool planning : {false, true}) {
      DeepEngine deep(planning ? *plan : *arena, frozen);
      deep.load();
      deep.step(1);
      const DiskTraffic before = deep.stores->home()->traffic();
      deep.step(2);
      const DiskTraffic after = deep.stores->home()->traffic();
      written[planning] = after.written - before.written;
      read[planning] = after.read - before.read;
      std::int64_t trained = 0;
      for (const StateEntry& entry : deep.engine->table().entries()) {
        if (deep.model.params().info(entry.param).trainable) trained += entry.bytes();
      }
      EXPECT_EQ(written[planning], trained) << frozen << " " << planning;
    }
    EXPECT_GE(read[false], read[true]);  // whole blocks of the disk
  }
}

TEST(DiskWeightsOfOneRank, ThatWereReadAheadAreReadAgainWhenTheyChange) {
  for (const MasterFormat master : {MasterFormat::kNone, MasterFormat::kF32}) {
    const auto arena = Arena::make_cpu(1 << 26);
    arena->set_poison(true);
    DeepEngine deep(*arena, false, master);
    deep.load();
    TrainEngine& engine = *deep.engine;
    const ParamId id = deep.model.block_params()[2][0];
    const StateEntry* values = engine.table().find(id, StateKind::kMaster);
    if (values == nullptr) values = engine.table().find(id, StateKind::kWeight);
    const StateEntry& weight = *engine.table().find(id, StateKind::kWeight);
    engine.store().prefetch(2);
    {
      const StateLease lease =
          engine.state().acquire({values->id, values->held_rows(0), StateAccess::kOverwrite, true});
      const StateLease shown =
          engine.state().acquire({weight.id, weight.held_rows(0), StateAccess::kOverwrite, true});
      ops::zero(lease.tensor());
      if (shown.tensor().raw() != lease.tensor().raw()) ops::zero(shown.tensor());
    }
    engine.store().changed(id);
    engine.store().publish();
    const Pin pin(engine.store(), 2);
    for (const float value : floats(pin.view(id))) EXPECT_EQ(value, 0.0f);
  }
}

TEST(DiskWeightsOfOneRank, ThatTheDiskHasChangedAreFound) {
  const auto arena = Arena::make_cpu(1 << 26);
  DeepEngine deep(*arena);
  deep.load();
  const ParamId id = deep.model.block_params()[3][2];
  const std::string name = deep.model.params().info(id).name;
  const Extent* extent = deep.stores->home()->disk()->files().layout().find(name + "/weight");
  ASSERT_NE(extent, nullptr);
  for (const auto& entry : std::filesystem::directory_iterator(deep.directory.path())) {
    if (!entry.path().filename().string().starts_with("state-")) continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(extent->offset + 1);
    file.put('\x55');
  }
  try {
    deep.engine->evaluate(micro_batch(1));
    ADD_FAILURE() << "went on with other weights";
  } catch (const SystemError& e) {
    EXPECT_NE(std::string(e.what()).find(name + "/weight"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("not what was written"), std::string::npos) << e.what();
  }
  EXPECT_EQ(arena->live_bytes(MemoryTag::kWeights), 0);
}

}  // namespace
}  // namespace thimble
