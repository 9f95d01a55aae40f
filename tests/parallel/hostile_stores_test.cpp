// Engines over stores that do all they may: what is trained is the same to the bit, what a step
// leases has been announced in its order, every step is committed once, and a store that fails ends
// the step with its error.
#include "tests/parallel/hostile_stores.h"

#include "tests/parallel/tiny_training.h"

namespace thimble {
namespace {

std::string name_of(const Setting& s) {
  return fmt::format(
      "{} stage {} accumulation_steps {} fused {} clip {} projected {} master {} odd {}",
      s.optimizer, s.stage, s.accumulation_steps, s.fused, static_cast<int>(s.clip_mode),
      s.project_gradients, static_cast<int>(s.master), s.odd_model);
}

class HostileStores : public testing::TestWithParam<int> {};

TEST_P(HostileStores, ChangeNoBit) {
  const int ranks = GetParam();
  std::vector<Setting> settings;
  for (const OptimizerEntry& entry : optimizer_entries()) {
    for (const bool fused : {false, true}) {
      Setting s{.optimizer = entry.name,
                .stage = ranks == 1           ? 0
                         : entry.int8_weights ? 2
                                              : 3,
                .accumulation_steps = 2,
                .dtype = DType::kBF16,
                .tied = fused,
                .fused = fused};
      if (fused) s.clip_mode = ClipMode::kTwoPass;
      settings.push_back(s);
      s.small_elements = EngineOptions().small_elements;  // most are whole on one rank
      s.odd_model = true;
      settings.push_back(s);
    }
  }
  for (const MasterFormat master : {MasterFormat::kSplit, MasterFormat::kNone})
    settings.push_back({.stage = ranks == 1 ? 0 : 1, .dtype = DType::kBF16, .master = master});
  for (const bool fused : {false, true}) {
    settings.push_back({.optimizer = "galore",
                        .stage = ranks == 1 ? 0 : 2,
                        .accumulation_steps = 2,
                        .fused = fused,
                        .clip_mode = fused ? ClipMode::kLagged : ClipMode::kExact,
                        .project_gradients = true});
  }
  for (Setting s : settings) {
    run_ranks(ranks, [&, s](Communicator& comm) {
      const std::vector<Batch> batches =
          batches_of(comm.rank(), ranks, s.accumulation_steps, s.empty);
      Setting hostile = s;
      hostile.hostile = true;
      expect_same(train(comm, hostile, batches), train(comm, s, batches), name_of(s));
    });
  }
}

struct Seen {
  std::vector<HostileRecord> after;  // each step
};

Seen watch(Communicator& comm, const Setting& s, int steps, int bad_step = 0) {
  const auto arena = Arena::make_cpu(1 << 26);
  const std::unique_ptr<TrainableModel> model = tiny_model(s);
  const OptimizerGroups optimizer =
      make_groups(model->params(), s.optimizer, s.project_gradients, s.update_gap);
  const auto record = std::make_shared<HostileRecord>();
  TrainEngine engine(*arena, *model, optimizer, engine_options(s, s.accumulation_steps),
                     {comm, hostile_stores(*model, record)});
  InitSource source(3, 0.3);
  engine.load(source);
  Seen seen{{*record}};
  for (int step = 1; step <= steps; ++step) {
    std::vector<Batch> batches = batches_of(comm.rank(), comm.size(), s.accumulation_steps, -1);
    if (step == bad_step)
      for (float& w : batches[0].weights) w *= std::numeric_limits<float>::infinity();
    const StepResult result = engine.step(batches, step, 1e-3);
    EXPECT_EQ(result.skipped, step == bad_step);
    seen.after.push_back(*record);
  }
  return seen;
}

std::vector<Setting> ways_of_stepping(int ranks) {
  const int stage = ranks == 1 ? 0 : 2;
  return {
      {.optimizer = "adamw", .stage = stage},
      {.optimizer = "adafactor", .stage = stage, .accumulation_steps = 3},
      {.optimizer = "galore", .stage = stage, .accumulation_steps = 2, .project_gradients = true},
      {.optimizer = "apollo", .stage = stage, .fused = true, .clip_mode = ClipMode::kLagged},
      {.optimizer = "adamw",
       .stage = stage,
       .accumulation_steps = 2,
       .fused = true,
       .clip_mode = ClipMode::kTwoPass},
      {.optimizer = "galore",
       .stage = stage,
       .accumulation_steps = 2,
       .fused = true,
       .clip_mode = ClipMode::kPerTensor,
       .project_gradients = true},
      {.optimizer = "badam", .stage = stage, .fused = true, .clip_mode = ClipMode::kLagged},
      {.optimizer = "lisa",
       .stage = stage,
       .fused = true,
       .clip_mode = ClipMode::kPerTensor,
       .update_gap = 2}};
}

// Updates within the backward pass, and projections, are foreseen from the second step on.
TEST_P(HostileStores, SeeTheOrderOfASteadyStepAnnounced) {
  run_ranks(GetParam(), [](Communicator& comm) {
    for (const Setting& s : ways_of_stepping(comm.size())) {
      const Seen seen = watch(comm, s, 6);
      for (std::size_t step = 1; step < seen.after.size(); ++step) {
        const HostileRecord &before = seen.after[step - 1], &now = seen.after[step];
        EXPECT_GT(now.acquired, before.acquired) << name_of(s);
        EXPECT_EQ(now.unannounced, before.unannounced) << name_of(s) << " step " << step;
        EXPECT_EQ(now.out_of_order, before.out_of_order) << name_of(s) << " step " << step;
      }
    }
  });
}

TEST_P(HostileStores, AreCommittedOnceAStep) {
  run_ranks(GetParam(), [](Communicator& comm) {
    for (const Setting& s : ways_of_stepping(comm.size())) {
      const Seen seen = watch(comm, s, 3, 2);
      EXPECT_EQ(seen.after.back().commits, (std::vector<std::int64_t>{0, 1, 2, 3})) << name_of(s);
    }
  });
}

// An optimizer that takes any rows never has more of a parameter than the window, or one granule
// where that is more.
TEST_P(HostileStores, LeaseAWindowOfRows) {
  run_ranks(GetParam(), [](Communicator& comm) {
    for (const char* optimizer : {"adamw", "adamw_8bit", "sgd", "lion"}) {
      const Setting s{.optimizer = optimizer, .stage = comm.size() == 1 ? 0 : 1};
      const Seen seen = watch(comm, s, 2);
      constexpr std::int64_t kGranule = 256 * 24 * 2;  // of 8-bit blocks, at most
      EXPECT_LE(seen.after.back().most_leased,
                std::string_view(optimizer) == "adamw_8bit" ? kGranule : HostileState::kWindow)
          << optimizer;
    }
  });
}

// Whichever lease fails: the step ends with the store's own words, on every rank, and all memory
// comes back.
TEST_P(HostileStores, FailWithTheirOwnWords) {
  for (const Setting& s : ways_of_stepping(GetParam())) {
    for (const bool at_release : {false, true}) {
      for (const int at : {1, 2, 7, 40}) {
        std::string reason;
        try {
          run_ranks(GetParam(), [&](Communicator& comm) {
            const auto arena = Arena::make_cpu(1 << 26);
            {
              const std::unique_ptr<TrainableModel> model = tiny_model(s);
              const OptimizerGroups optimizer =
                  make_groups(model->params(), s.optimizer, s.project_gradients);
              const auto record = std::make_shared<HostileRecord>();
              if (comm.rank() == 0) (at_release ? record->fail_release : record->fail_acquire) = at;
              TrainEngine engine(*arena, *model, optimizer, engine_options(s, s.accumulation_steps),
                                 {comm, hostile_stores(*model, record)});
              try {
                InitSource source(3, 0.3);
                engine.load(source);
                for (int step = 1; step <= 3; ++step)
                  engine.step(batches_of(comm.rank(), comm.size(), s.accumulation_steps, -1), step,
                              1e-3);
              } catch (const std::exception& e) {
                comm.abort(e.what());  // as the program does, before anything is taken down
                throw;
              }
            }
            EXPECT_EQ(arena->live_bytes(), 0);
          });
        } catch (const SystemError& e) {
          reason = e.what();
        }
        EXPECT_NE(reason.find("the hostile store"), std::string::npos)
            << name_of(s) << " at " << at << ": " << reason;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, HostileStores, testing::Values(1, 2, 3));

}  // namespace
}  // namespace thimble
