// Sharded training against one rank: the same bits where they are promised, the same numbers
// elsewhere, the planned bytes in memory and between ranks.
#include "tests/parallel/tiny_training.h"

namespace thimble {
namespace {

class ZeroTest : public testing::TestWithParam<int> {};

TEST_P(ZeroTest, OnePassOnRanksIsManyPassesOnOneBitForBit) {
  const int ranks = GetParam();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [tied, wide] :
         {std::pair{false, false}, {true, false}, {false, true}, {true, true}}) {
      Setting s{.dtype = dtype, .comm_dtype = DType::kF32, .tied = tied, .wide = wide};
      const std::unique_ptr<TrainableModel> made = tiny_model(s);
      const TrainableModel& model = *made;
      const Outcome want = reference(s, ranks);
      for (s.stage = 0; s.stage <= 3; ++s.stage) {
        run_ranks(ranks, [&](Communicator& comm) {
          const Outcome got = train(comm, s, batches_of(comm.rank(), ranks, 1, -1));
          EXPECT_EQ(got.losses, want.losses) << "stage " << s.stage;
          EXPECT_EQ(got.norms, want.norms) << "stage " << s.stage;
          for (const ParamId id : model.params().ids()) {
            const auto i = static_cast<std::size_t>(id);
            const ParamInfo& info = model.params().info(id);
            EXPECT_EQ(got.grads[i], rows_of(want.grads[i], info, got.slices[i]))
                << info.name << " stage " << s.stage;
            EXPECT_EQ(got.masters[i], rows_of(want.masters[i], info, got.slices[i])) << info.name;
          }
        });
      }
    }
  }
}

TEST_P(ZeroTest, EveryStageCommDTypeAndAccumulationIsCloseToOneRank) {
  const int ranks = GetParam();
  for (const DType comm_dtype : {DType::kF32, DType::kBF16}) {
    for (const int accumulation_steps : {1, 3}) {
      // With an empty micro-batch one rank has nothing to learn from.
      Setting s{.accumulation_steps = accumulation_steps,
                .empty = ranks > 1 ? 1 : -1,
                .dtype = DType::kF32,
                .comm_dtype = comm_dtype};
      const std::unique_ptr<TrainableModel> made = tiny_model(s);
      const TrainableModel& model = *made;
      const Outcome want = reference(s, ranks);
      for (s.stage = 0; s.stage <= 3; ++s.stage) {
        run_ranks(ranks, [&](Communicator& comm) {
          const Outcome got =
              train(comm, s, batches_of(comm.rank(), ranks, accumulation_steps, s.empty));
          EXPECT_NEAR(got.losses[0], want.losses[0], 1e-6 * want.losses[0]);
          for (const ParamId id : model.params().ids()) {
            const auto i = static_cast<std::size_t>(id);
            const ParamInfo& info = model.params().info(id);
            const std::vector<float> expected = rows_of(want.grads[i], info, got.slices[i]);
            ASSERT_EQ(got.grads[i].size(), expected.size());
            // A single number may be a small difference of what was rounded.
            const double rounding = info.shape.numel() == 1 ? 4e-2 : 1e-2;
            EXPECT_TRUE(relative(got.grads[i], expected) <=
                        (comm_dtype == DType::kF32 || ranks == 1 ? 1e-5 : rounding))
                << info.name << " stage " << s.stage << " accumulation_steps " << accumulation_steps
                << ": " << relative(got.grads[i], expected);
          }
        });
      }
    }
  }
}

TEST_P(ZeroTest, StagesOfOneGroupGiveTheSameBits) {
  const int ranks = GetParam();
  const std::unique_ptr<TrainableModel> made = tiny_model({.tied = true});
  const TrainableModel& model = *made;
  for (const int accumulation_steps : {1, 3}) {
    for (const auto& [first, second] : {std::pair{0, 1}, std::pair{2, 3}, std::pair{1, 2}}) {
      if (accumulation_steps > 1 && first == 1) continue;
      run_ranks(ranks, [&, first = first, second = second](Communicator& comm) {
        Setting s{.stage = first,
                  .accumulation_steps = accumulation_steps,
                  .dtype = DType::kBF16,
                  .comm_dtype = DType::kBF16,
                  .tied = true};
        const auto batches = batches_of(comm.rank(), ranks, accumulation_steps, -1);
        const Outcome a = train(comm, s, batches);
        s.stage = second;
        s.recompute = second == 3 ? Recompute::kFull : Recompute::kSelective;
        const Outcome b = train(comm, s, batches);
        EXPECT_EQ(a.losses, b.losses);
        EXPECT_EQ(a.norms, b.norms);
        for (const ParamId id : model.params().ids()) {
          const auto i = static_cast<std::size_t>(id);
          const auto part = [&](const std::vector<float>& v, Slice have) {
            const std::int64_t width =
                model.params().info(id).shape.numel() / model.params().info(id).storage_shape()[0];
            const Slice want = b.slices[i];
            return std::vector<float>(v.begin() + (want.begin - have.begin) * width,
                                      v.begin() + (want.end - have.begin) * width);
          };
          EXPECT_EQ(part(a.masters[i], a.slices[i]), b.masters[i]) << model.params().info(id).name;
        }
      });
    }
  }
}

TEST_P(ZeroTest, BytesSentAndInMemoryAreThePlanned) {
  const int ranks = GetParam();
  for (const auto& [tied, wide] : {std::pair{false, false}, {true, false}, {true, true}}) {
    for (const int accumulation_steps : {1, 3}) {
      for (const Recompute recompute : {Recompute::kNone, Recompute::kFull}) {
        for (int stage = 0; stage <= 3; ++stage) {
          const Setting s{.stage = stage,
                          .accumulation_steps = accumulation_steps,
                          .dtype = DType::kBF16,
                          .comm_dtype = DType::kBF16,
                          .tied = tied,
                          .wide = wide,
                          .recompute = recompute};
          const std::unique_ptr<TrainableModel> made = tiny_model(s);
          const TrainableModel& model = *made;
          const OptimizerGroups optimizer = make_groups(model.params(), "adamw");
          // One step's bytes, and every peak.
          const auto play = [&](Arena& arena, Communicator& comm) {
            arena.begin_phase("load");
            TrainEngine engine(arena, model, optimizer, engine_options(s, accumulation_steps),
                               {comm, stores_of_tests(model, optimizer, comm, s.stage)});
            InitSource source(3, 0.3);
            engine.load(source);
            arena.begin_phase("step");
            const auto batches = batches_of(comm.rank(), ranks, accumulation_steps, -1);
            const std::int64_t before = comm.traffic().tensor_bytes;
            engine.step(batches, 1, 1e-3);
            const std::int64_t sent = comm.traffic().tensor_bytes - before;
            EXPECT_EQ(sent, ranks == 1 ? 0
                                       : engine.parallel()
                                             .step_traffic(model.params(), comm.rank(),
                                                           {.micro_batches = accumulation_steps,
                                                            .weight_passes = accumulation_steps,
                                                            .gathers_per_micro_batch =
                                                                model.gathers_per_micro_batch()})
                                             .total());
            engine.step(batches, 2, 1e-3);
          };
          run_ranks(ranks, [&](Communicator& comm) {
            const auto plan = Arena::make_planning();
            PlanningCommunicator planned(comm.rank(), ranks);
            play(*plan, planned);
            const auto arena = Arena::make_cpu(plan->extent_bytes());
            std::int64_t operations = comm.traffic().tensor_operations;
            play(*arena, comm);
            EXPECT_EQ(plan->peaks(), arena->peaks()) << "stage " << stage;
            if (ranks > 1) {
              operations = comm.traffic().tensor_operations - operations;
              EXPECT_EQ(planned.traffic().tensor_operations, operations) << "stage " << stage;
            }
            EXPECT_EQ(arena->live_bytes(), 0);
          });
        }
      }
    }
  }
}

// Every optimizer, with an embedding that is taller, then one that is wider, than the other side.
std::vector<std::pair<OptimizerEntry, bool>> optimizers_by_shape() {
  std::vector<std::pair<OptimizerEntry, bool>> all;
  for (const OptimizerEntry& entry : optimizer_entries()) {
    for (const bool wide : {false, true}) all.emplace_back(entry, wide);
  }
  return all;
}

// One pass: the gradients are the same bits, so the updates differ only by the order of sums within
// matmuls and projections.
TEST_P(ZeroTest, EveryOptimizerGivesTheWeightsOfOneRank) {
  const int ranks = GetParam();
  for (const auto& [entry, wide] : optimizers_by_shape()) {
    Setting s{.optimizer = entry.name,
              .dtype = entry.int8_weights ? DType::kBF16 : DType::kF32,
              .wide = wide};
    const std::unique_ptr<TrainableModel> made = tiny_model(s);
    const TrainableModel& model = *made;
    const Outcome want = reference(s, ranks);
    // A code of 8 bits may be rounded the other way.
    const double tolerance = entry.int8_weights ? 1e-2 : wide ? 1e-5 : 2e-6;
    for (const int stage : stages_of_tests(entry.int8_weights ? 2 : 3)) {
      s.stage = stage;
      run_ranks(ranks, [&](Communicator& comm) {
        const Outcome got = train(comm, s, batches_of(comm.rank(), ranks, 1, -1));
        for (const ParamId id : model.params().ids()) {
          const auto i = static_cast<std::size_t>(id);
          const ParamInfo& info = model.params().info(id);
          // Attention does not depend on it: its gradient is rounding, of which Adam makes steps.
          if (info.name.ends_with("k_proj.bias")) continue;
          const std::vector<float> expected = rows_of(want.masters[i], info, got.slices[i]);
          ASSERT_EQ(got.masters[i].size(), expected.size());
          EXPECT_TRUE(relative(got.masters[i], expected) <= tolerance)
              << entry.name << " " << info.name << " stage " << s.stage << ": "
              << relative(got.masters[i], expected);
        }
      });
    }
  }
}

TEST_P(ZeroTest, EveryOptimizersMemoryIsPlanned) {
  const int ranks = GetParam();
  for (const OptimizerEntry& entry : optimizer_entries()) {
    for (const MasterFormat master :
         {MasterFormat::kF32, MasterFormat::kSplit, MasterFormat::kNone}) {
      const Setting s{.optimizer = entry.name,
                      .stage = std::min(ranks - 1, entry.int8_weights ? 2 : 3),
                      .dtype = DType::kBF16,
                      .comm_dtype = DType::kBF16,
                      .master = master};
      const std::unique_ptr<TrainableModel> made = tiny_model(s);
      const TrainableModel& model = *made;
      const OptimizerGroups optimizer = make_groups(model.params(), entry.name);
      const auto play = [&](Arena& arena, Communicator& comm) {
        TrainEngine engine(arena, model, optimizer, engine_options(s, 1),
                           {comm, stores_of_tests(model, optimizer, comm, s.stage)});
        InitSource source(3, 0.3);
        engine.load(source);
        arena.begin_phase("step");
        const auto batches = batches_of(comm.rank(), ranks, 1, -1);
        for (int step = 1; step <= 3; ++step) engine.step(batches, step, 1e-3);
      };
      run_ranks(ranks, [&](Communicator& comm) {
        const auto plan = Arena::make_planning();
        PlanningCommunicator planned(comm.rank(), ranks);
        play(*plan, planned);
        const auto arena = Arena::make_cpu(plan->extent_bytes());
        play(*arena, comm);
        EXPECT_EQ(plan->peaks(), arena->peaks()) << entry.name << " " << static_cast<int>(master);
      });
    }
  }
}

// Projection of gradients, or those of the layers at work alone. What N ranks send of a pass each
// is what one rank adds up over N accumulation_steps, to the bit.
TEST_P(ZeroTest, WhatUpdatesTakeIsAddedUpAndSent) {
  const int ranks = GetParam();
  for (const char* name : {"galore", "natural_galore", "badam", "lisa", "frugal layers"}) {
    Setting s{.optimizer = name, .project_gradients = true};
    const std::unique_ptr<TrainableModel> made = tiny_model(s);
    const TrainableModel& model = *made;
    const OptimizerGroups optimizer = make_groups(model.params(), name, true);
    const Outcome want = reference(s, ranks);
    for (s.stage = 0; s.stage <= 3; ++s.stage) {
      run_ranks(ranks, [&](Communicator& comm) {
        const auto batches = batches_of(comm.rank(), ranks, 1, -1);
        const Outcome got = train(comm, s, batches);
        // Matmuls of GaLore's update have other shapes on slices, so their last bits may differ.
        const bool has_matmuls = std::string_view(name).ends_with("galore");
        EXPECT_NEAR(got.losses[1], want.losses[1], has_matmuls ? 1e-6 : 0.0)
            << name << " stage " << s.stage;
        EXPECT_EQ(got.norms[0], want.norms[0]) << name << " stage " << s.stage;
        for (const ParamId id : model.params().ids()) {
          const auto i = static_cast<std::size_t>(id);
          const ParamInfo& info = model.params().info(id);
          if (info.name.ends_with("k_proj.bias")) continue;
          EXPECT_TRUE(relative(got.masters[i], rows_of(want.masters[i], info, got.slices[i])) <=
                      (has_matmuls ? 2e-5 : 0.0))
              << name << " " << info.name << " stage " << s.stage;
        }
        // Memory and traffic of every step are those that were planned.
        for (const int accumulation_steps : {1, 3}) {
          const auto play = [&](Arena& arena, Communicator& playing) {
            TrainEngine engine(arena, model, optimizer, engine_options(s, accumulation_steps),
                               {playing, stores_of_tests(model, optimizer, playing, s.stage)});
            InitSource source(3, 0.3);
            engine.load(source);
            arena.begin_phase("step");
            const auto own = batches_of(comm.rank(), ranks, accumulation_steps, -1);
            for (int step = 1; step <= 4; ++step) {
              const std::int64_t before = playing.traffic().tensor_bytes;
              engine.step(own, step, 1e-3);
              const auto planned = [&](const std::vector<std::int64_t>& projections) {
                return engine.parallel()
                    .step_traffic(model.params(), comm.rank(),
                                  {.micro_batches = accumulation_steps,
                                   .weight_passes = accumulation_steps,
                                   .comm_dtype = DType::kF32,
                                   .weight_dtype = DType::kF32,
                                   .gathers_per_micro_batch = model.gathers_per_micro_batch(),
                                   .projected_widths = projections})
                    .total();
              };
              if (ranks == 1) continue;
              EXPECT_EQ(playing.traffic().tensor_bytes - before,
                        planned(engine.projected_widths(step)));
              if (std::string_view(name) != "frugal layers") {
                EXPECT_LT(planned(engine.projected_widths(step)), planned({})) << name;
              }
            }
          };
          const auto plan = Arena::make_planning();
          PlanningCommunicator planned(comm.rank(), ranks);
          play(*plan, planned);
          const auto arena = Arena::make_cpu(plan->extent_bytes());
          play(*arena, comm);
          EXPECT_EQ(plan->peaks(), arena->peaks()) << name << " stage " << s.stage;
        }
      });
    }
  }
}

// Passes add up to the projection of the whole batch's gradient.
TEST_P(ZeroTest, ProjectedPassesAreTheProjectedBatch) {
  SingleCommunicator alone;
  Setting s{.optimizer = "galore", .stage = 0, .max_grad_norm = 0};
  const auto batches = batches_of(0, 1, GetParam() + 1, -1);
  // The first refreshes differ: compare from the same state, which one rank and no projections
  // give.
  s.project_gradients = true;
  const Outcome projected = train(alone, s, batches);
  Setting fused = s;
  fused.fused = true;
  fused.clip_mode = ClipMode::kPerTensor;
  const Outcome same = train(alone, fused, batches);
  EXPECT_EQ(same.losses, projected.losses);
  EXPECT_EQ(same.masters, projected.masters);
}

// The remainder holds what a f32 master does; its bf16 weight differs where a tie is not to even.
TEST_P(ZeroTest, SplitWeightsAreThoseOfAMaster) {
  const int ranks = GetParam();
  run_ranks(ranks, [&](Communicator& comm) {
    Setting s{.stage = 1, .dtype = DType::kBF16, .comm_dtype = DType::kBF16};
    const auto batches = batches_of(comm.rank(), ranks, 1, -1);
    const Outcome whole = train(comm, s, batches);
    s.master = MasterFormat::kSplit;
    const Outcome split = train(comm, s, batches);
    for (std::size_t i = 0; i < whole.losses.size(); ++i) {
      EXPECT_NEAR(whole.losses[i], split.losses[i], 1e-3 * whole.losses[i]);
      EXPECT_NEAR(whole.norms[i], split.norms[i], 1e-2 * whole.norms[i]);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, ZeroTest, testing::Values(1, 2, 3, 4));

}  // namespace
}  // namespace thimble
