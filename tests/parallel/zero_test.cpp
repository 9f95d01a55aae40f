// Sharded training against one rank: the same bits where they are promised, the same numbers
// elsewhere, the planned bytes in memory and on the wire.
#include <cmath>

#include "launcher/engine/memory_report.h"
#include "launcher/engine/train_engine.h"
#include "models/weight_sources.h"
#include "optim/groups.h"
#include "parallel/planning_communicator.h"
#include "tests/parallel/rank_team.h"

namespace thimble {
namespace {

constexpr std::int64_t kSeq = 13;

ModelConfig odd_config(bool tied) {
  ModelConfig c;
  c.hidden_size = 24;
  c.intermediate_size = 37;
  c.num_layers = 3;
  c.num_heads = 3;
  c.num_kv_heads = 1;
  c.head_dim = 8;
  c.vocab_size = 61;
  c.max_positions = 64;
  c.tied_head = tied;
  c.qkv_bias = true;
  c.windows = {0, 5, 0};
  return c;
}

// Micro-batch `index` of a step; some positions, and in one of them all, are not trained.
Batch micro_batch(int index, int empty = -1) {
  Batch b{.rows = 2, .seq_len = kSeq};
  for (int i = 0; i < 2 * kSeq; ++i) {
    const int t = i % static_cast<int>(kSeq), start = t >= 6 ? 6 : 0;
    b.tokens.push_back((i * 17 + index * 5) % 61);
    b.targets.push_back((i * 17 + 17 + index * 5) % 61);
    b.weights.push_back(index == empty || (i + index) % 5 == 0 ? 0.0f : 1.0f);
    b.doc_start.push_back(start);
    b.positions.push_back(t - start);
  }
  return b;
}

std::vector<Batch> batches_of(int rank, int ranks, int passes, int empty) {
  std::vector<Batch> mine;
  for (int p = 0; p < passes; ++p) mine.push_back(micro_batch(p * ranks + rank, empty));
  return mine;
}

std::vector<float> floats(const Tensor& t) {
  std::vector<float> out(static_cast<std::size_t>(t.numel()));
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = t.dtype() == DType::kBF16 ? to_float(t.data<BF16>()[i]) : t.data<float>()[i];
  }
  return out;
}

// Everything a run produced, by parameter: rows [slice) of gradient of the first step, master after
// three steps.
struct Outcome {
  std::vector<double> losses, norms;
  std::vector<Slice> slices;
  std::vector<std::vector<float>> grads, masters;
};

struct Setting {
  std::string optimizer = "adamw";
  int stage = 0, passes = 1, empty = -1;
  DType dtype = DType::kF32, wire = DType::kF32;
  bool tied = false;
  Recompute recompute = Recompute::kNone;
  MasterFormat master = MasterFormat::kF32;
};

// Small enough for every matrix here; the second of three steps refreshes too.
OptimizerGroups make_groups(const ParamTable& params, const std::string& name) {
  GroupSettings main{.label = "main",
                     .match = "",
                     .optimizer = {.name = name, .rank = 3, .update_gap = 1},
                     .lr = 1e-3};
  GroupSettings fallback = main;
  fallback.optimizer.name = "adamw";
  return {params, {}, main, fallback};
}

EngineOptions engine_options(const Setting& s, int passes) {
  return {.dtype = s.dtype,
          .grad_dtype = s.dtype,
          .recompute = s.recompute,
          .accumulates = passes > 1,
          .zero_stage = s.stage,
          .wire = s.wire,
          .small_elements = 64,
          .master = s.master,
          .seq_len = kSeq};
}

Outcome train(Communicator& comm, const Setting& s, const std::vector<Batch>& batches) {
  const auto arena = Arena::make_cpu(1 << 26);
  arena->set_poison(true);
  Outcome out;
  const Transformer model(odd_config(s.tied));
  const OptimizerGroups optimizer = make_groups(model.params(), s.optimizer);
  TrainEngine engine(*arena, model, optimizer, engine_options(s, static_cast<int>(batches.size())),
                     comm);
  InitSource source(3, 0.3);
  engine.load(source);
  static_cast<void>(engine.accumulate(batches));
  for (const ParamId id : model.params().ids()) {
    out.slices.push_back(engine.parallel().updated(id, comm.rank()));
    out.grads.push_back(floats(engine.grads().grad(id)));
  }
  engine.release_grads();
  for (int step = 1; step <= 3; ++step) {
    const StepResult result = engine.step(batches, step, 1e-3);
    EXPECT_FALSE(result.skipped);
    out.losses.push_back(result.loss);
    out.norms.push_back(result.grad_norm);
  }
  for (const ParamId id : model.params().ids()) {
    out.masters.push_back(engine.master() == MasterFormat::kF32
                              ? floats(engine.state().at({id, "master"}))
                              : floats(engine.store().shard(id)));
  }
  return out;
}

// The run of one process that takes all micro-batches in the order in which the ranks are counted.
Outcome reference(const Setting& s, int ranks) {
  SingleCommunicator alone;
  return train(alone, s, batches_of(0, 1, ranks * s.passes, s.empty));
}

std::vector<float> rows_of(const std::vector<float>& whole, const ParamInfo& info, Slice slice) {
  const std::int64_t width = info.shape.numel() / info.storage_shape()[0];
  return {whole.begin() + slice.begin * width, whole.begin() + slice.end * width};
}

double relative(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    error += std::pow(static_cast<double>(got[i]) - static_cast<double>(want[i]), 2);
    norm += std::pow(static_cast<double>(want[i]), 2);
  }
  return norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
}

class ZeroTest : public testing::TestWithParam<int> {};

TEST_P(ZeroTest, OnePassOnRanksIsManyPassesOnOneBitForBit) {
  const int ranks = GetParam();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const bool tied : {false, true}) {
      Setting s{.dtype = dtype, .wire = DType::kF32, .tied = tied};
      const Transformer model(odd_config(tied));
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

TEST_P(ZeroTest, EveryStageWireAndAccumulationIsCloseToOneRank) {
  const int ranks = GetParam();
  for (const DType wire : {DType::kF32, DType::kBF16}) {
    for (const int passes : {1, 3}) {
      // With an empty micro-batch one rank has nothing to learn from.
      Setting s{.passes = passes, .empty = ranks > 1 ? 1 : -1, .dtype = DType::kF32, .wire = wire};
      const Transformer model(odd_config(false));
      const Outcome want = reference(s, ranks);
      for (s.stage = 0; s.stage <= 3; ++s.stage) {
        run_ranks(ranks, [&](Communicator& comm) {
          const Outcome got = train(comm, s, batches_of(comm.rank(), ranks, passes, s.empty));
          EXPECT_NEAR(got.losses[0], want.losses[0], 1e-6 * want.losses[0]);
          for (const ParamId id : model.params().ids()) {
            const auto i = static_cast<std::size_t>(id);
            const ParamInfo& info = model.params().info(id);
            const std::vector<float> expected = rows_of(want.grads[i], info, got.slices[i]);
            ASSERT_EQ(got.grads[i].size(), expected.size());
            EXPECT_TRUE(relative(got.grads[i], expected) <=
                        (wire == DType::kF32 || ranks == 1 ? 1e-5 : 1e-2))
                << info.name << " stage " << s.stage << " passes " << passes;
          }
        });
      }
    }
  }
}

TEST_P(ZeroTest, StagesOfOneGroupGiveTheSameBits) {
  const int ranks = GetParam();
  const Transformer model(odd_config(true));
  for (const int passes : {1, 3}) {
    for (const auto& [first, second] : {std::pair{0, 1}, std::pair{2, 3}, std::pair{1, 2}}) {
      if (passes > 1 && first == 1) continue;
      run_ranks(ranks, [&, first = first, second = second](Communicator& comm) {
        Setting s{.stage = first,
                  .passes = passes,
                  .dtype = DType::kBF16,
                  .wire = DType::kBF16,
                  .tied = true};
        const auto batches = batches_of(comm.rank(), ranks, passes, -1);
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

TEST_P(ZeroTest, BytesOnTheWireAndInMemoryAreThePlanned) {
  const int ranks = GetParam();
  for (const bool tied : {false, true}) {
    for (const int passes : {1, 3}) {
      for (const Recompute recompute : {Recompute::kNone, Recompute::kFull}) {
        for (int stage = 0; stage <= 3; ++stage) {
          const Setting s{.stage = stage,
                          .passes = passes,
                          .dtype = DType::kBF16,
                          .wire = DType::kBF16,
                          .tied = tied,
                          .recompute = recompute};
          const Transformer model(odd_config(tied));
          const OptimizerGroups optimizer = make_groups(model.params(), "adamw");
          // One step's bytes, and every peak.
          const auto play = [&](Arena& arena, Communicator& comm) {
            arena.begin_phase("load");
            TrainEngine engine(arena, model, optimizer, engine_options(s, passes), comm);
            InitSource source(3, 0.3);
            engine.load(source);
            arena.begin_phase("step");
            const auto batches = batches_of(comm.rank(), ranks, passes, -1);
            const std::int64_t before = comm.traffic().tensor_bytes;
            engine.step(batches, 1, 1e-3);
            const std::int64_t sent = comm.traffic().tensor_bytes - before;
            EXPECT_EQ(sent, ranks == 1 ? 0
                                       : engine.parallel()
                                             .step_traffic(model.params(), comm.rank(), passes,
                                                           DType::kBF16, DType::kBF16,
                                                           model.gathers_per_pass())
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

// One pass: the gradients are the same bits, so the updates differ only by the order of sums within
// products and projections.
TEST_P(ZeroTest, EveryOptimizerGivesTheWeightsOfOneRank) {
  const int ranks = GetParam();
  for (const OptimizerEntry& entry : optimizer_entries()) {
    Setting s{.optimizer = entry.name};
    const Transformer model(odd_config(false));
    const Outcome want = reference(s, ranks);
    for (s.stage = 0; s.stage <= 3; ++s.stage) {
      run_ranks(ranks, [&](Communicator& comm) {
        const Outcome got = train(comm, s, batches_of(comm.rank(), ranks, 1, -1));
        for (const ParamId id : model.params().ids()) {
          const auto i = static_cast<std::size_t>(id);
          const ParamInfo& info = model.params().info(id);
          // Attention does not depend on it: its gradient is rounding, of which Adam makes steps.
          if (info.name.ends_with("k_proj.bias")) continue;
          const std::vector<float> expected = rows_of(want.masters[i], info, got.slices[i]);
          ASSERT_EQ(got.masters[i].size(), expected.size());
          EXPECT_TRUE(relative(got.masters[i], expected) <= 2e-6)
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
                      .stage = ranks - 1,
                      .dtype = DType::kBF16,
                      .wire = DType::kBF16,
                      .master = master};
      const Transformer model(odd_config(false));
      const OptimizerGroups optimizer = make_groups(model.params(), entry.name);
      const auto play = [&](Arena& arena, Communicator& comm) {
        TrainEngine engine(arena, model, optimizer, engine_options(s, 1), comm);
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

// The remainder holds what a f32 master does.
TEST_P(ZeroTest, SplitWeightsAreThoseOfAMaster) {
  const int ranks = GetParam();
  run_ranks(ranks, [&](Communicator& comm) {
    Setting s{.stage = 1, .dtype = DType::kBF16, .wire = DType::kBF16};
    const auto batches = batches_of(comm.rank(), ranks, 1, -1);
    const Outcome whole = train(comm, s, batches);
    s.master = MasterFormat::kSplit;
    const Outcome split = train(comm, s, batches);
    EXPECT_EQ(whole.losses, split.losses);
    EXPECT_EQ(whole.norms, split.norms);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, ZeroTest, testing::Values(1, 2, 3, 4));

}  // namespace
}  // namespace thimble
