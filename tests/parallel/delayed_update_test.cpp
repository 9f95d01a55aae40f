// Updates under the next forward pass: the bits of updates after the backward pass, committed a
// pass later.
#include "tests/parallel/tiny_training.h"

namespace thimble {
namespace {

class DelayedUpdates : public testing::TestWithParam<int> {};

TEST_P(DelayedUpdates, GiveTheSameBits) {
  const int ranks = GetParam();
  int turn = 0;
  for (const OptimizerEntry& entry : optimizer_entries()) {
    ++turn;
    const bool bf16 = entry.int8_weights || turn % 2 == 0;
    Setting s{.optimizer = entry.name,
              .stage = turn % (entry.int8_weights ? 3 : 4),
              .accumulation_steps = turn % 3 == 0 ? 3 : 1,
              .dtype = bf16 ? DType::kBF16 : DType::kF32,
              .tied = turn % 3 == 1,
              .recompute = turn % 2 == 0 ? Recompute::kFull : Recompute::kNone,
              .master = entry.int8_weights ? MasterFormat::kNone
                        : bf16             ? MasterFormat::kSplit
                                           : MasterFormat::kF32};
    run_ranks(ranks, [&](Communicator& comm) {
      const auto batches = batches_of(comm.rank(), ranks, s.accumulation_steps, -1);
      const Outcome want = train(comm, s, batches);
      Setting delayed = s;
      delayed.delayed_update = true;
      delayed.hostile = true;
      expect_same(train(comm, delayed, batches), want, fmt::format("{} hostile", entry.name));
      delayed.hostile = false;
      const bool own_rows = ranks == 1 || s.stage >= 2;
      delayed.stored_gradients = own_rows && turn % 2 == 1;
      delayed.disk = TestDisk{.slots = 1 + turn % 2,
                              .weights = !entry.int8_weights && (ranks == 1 || s.stage == 3),
                              .cache_bytes = turn % 3 == 0 ? 64 * kKiB : 0,
                              .commit_steps = 1 + turn % 2};
      expect_same(train(comm, delayed, batches), want, fmt::format("{} on disk", entry.name));
    });
  }
}

// An engine of one rank whose store notes the commits.
struct NotedEngine {
  explicit NotedEngine(Arena& arena, const Setting& s)
      : model(tiny_model(s)), optimizer(make_groups(model->params(), "adamw")) {
    engine.emplace(arena, *model, optimizer, engine_options(s, 1), hostile_stores(*model, record));
    InitSource source(3, 0.3);
    engine->load(source);
  }
  StepResult step(std::int64_t number, bool bad = false) {
    Batch batch = micro_batch(static_cast<int>(number));
    if (bad) batch.weights[3] = std::numeric_limits<float>::infinity();
    return engine->step(std::span(&batch, 1), number, 1e-3);
  }
  std::shared_ptr<HostileRecord> record = std::make_shared<HostileRecord>();
  std::unique_ptr<TrainableModel> model;
  OptimizerGroups optimizer;
  std::optional<TrainEngine> engine;
};

TEST(DelayedUpdate, IsCommittedWhenItHasRun) {
  const auto arena = Arena::make_cpu(1 << 26);
  NotedEngine noted(*arena, {.delayed_update = true});
  const auto commits = [&] { return noted.record->commits; };
  using Steps = std::vector<std::int64_t>;
  EXPECT_EQ(commits(), (Steps{0}));
  noted.step(1);
  EXPECT_EQ(commits(), (Steps{0})) << "it waits";
  noted.step(2);
  EXPECT_EQ(commits(), (Steps{0, 1}));
  noted.engine->evaluate(micro_batch(5));
  EXPECT_EQ(commits(), (Steps{0, 1, 2})) << "whoever reads weights gets them updated";
  noted.step(3);
  static_cast<void>(noted.engine->state());
  EXPECT_EQ(commits(), (Steps{0, 1, 2, 3}));
  noted.engine->finish_update();
  EXPECT_EQ(commits(), (Steps{0, 1, 2, 3})) << "once";
  EXPECT_TRUE(noted.step(4, true).skipped);
  EXPECT_EQ(commits(), (Steps{0, 1, 2, 3, 4})) << "there is nothing to wait for";
  noted.step(5);
  EXPECT_TRUE(noted.step(6, true).skipped);
  EXPECT_EQ(commits(), (Steps{0, 1, 2, 3, 4, 5, 6}));
}

// In steady steps state is leased in the order that was announced, forward pass or not.
TEST(DelayedUpdate, LeasesInTheAnnouncedOrder) {
  const auto arena = Arena::make_cpu(1 << 26);
  NotedEngine noted(*arena, {.stored_gradients = true, .delayed_update = true});
  for (int step = 1; step <= 3; ++step) noted.step(step);
  const int unannounced = noted.record->unannounced, out_of_order = noted.record->out_of_order;
  noted.step(4);
  EXPECT_EQ(noted.record->unannounced, unannounced);
  EXPECT_EQ(noted.record->out_of_order, out_of_order);
}

TEST(DelayedUpdate, MemoryIsThePlanned) {
  const auto play = [](Arena& arena) {
    arena.begin_phase("load");
    const Setting s{.dtype = DType::kBF16, .recompute = Recompute::kFull, .delayed_update = true};
    const std::unique_ptr<TrainableModel> model = tiny_model(s);
    const OptimizerGroups optimizer = make_groups(model->params(), "muon");
    TrainEngine engine(arena, *model, optimizer, engine_options(s, 1));
    InitSource source(3, 0.3);
    engine.load(source);
    arena.begin_phase("step");
    for (int step = 1; step <= 3; ++step) {
      const Batch batch = micro_batch(step);
      engine.step(std::span(&batch, 1), step, 1e-3);
    }
    engine.finish_update();
    arena.begin_phase("eval");
    engine.evaluate(micro_batch(9));
  };
  const auto plan = Arena::make_planning();
  play(*plan);
  const auto arena = Arena::make_cpu(plan->extent_bytes());
  play(*arena);
  EXPECT_EQ(plan->peaks(), arena->peaks());
  EXPECT_EQ(arena->live_bytes(), 0);
}

// A step that lacks an update is never taken for a whole one.
TEST(DelayedUpdate, ThatFailsHasFailedForGood) {
  const std::unique_ptr<TrainableModel> model = tiny_model({});
  std::vector<UpdateItem> items;
  for (const ParamId id : model->params().ids()) items.push_back({.id = id});
  int updates = 0;
  DelayedUpdate update(*model, [&](std::span<const UpdateItem>, const UpdateStep&) {
    if (++updates == 2) throw SystemError("the disk is gone");
  });
  update.begin(items, {.number = 1});
  update.finish_to(0);
  EXPECT_THROW(update.finish_to(1), SystemError);
  EXPECT_THROW(update.finish(), SystemError);
  EXPECT_TRUE(update.is_pending());
  EXPECT_EQ(updates, 2);
}

TEST(DelayedUpdate, IsNotOneWithinTheBackwardPass) {
  const auto arena = Arena::make_cpu(1 << 24);
  try {
    NotedEngine(*arena, {.fused = true, .clip_mode = ClipMode::kLagged, .delayed_update = true});
    FAIL();
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("offload.delayed_update = true"), std::string::npos);
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, DelayedUpdates, testing::Values(1, 3));

}  // namespace
}  // namespace thimble
