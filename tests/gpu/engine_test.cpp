// Training on a GPU beside training on the CPU: on the emulated one, whose memory the host cannot
// touch, and, in a build with CUDA, on a real one.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

#include "checkpoint/checkpoint_reader.h"
#include "core/device/gpu.h"
#include "core/io/file_engine.h"
#include "models/hf_export.h"
#include "optim/registry.h"
#include "tests/gpu/like_the_cpu.h"
#include "train/gpu_backend.h"
#include "train/save_checkpoint.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// Adam's first steps are almost signs: where a bf16 gradient is near zero, weights differ.
constexpr double kAny = std::numeric_limits<double>::infinity();

TEST_F(GpuEngine, TrainsAsTheCpuDoes) {
  for (const bool tied : {false, true}) {
    expect_like_the_cpu({.accumulation_steps = 2, .empty = 1, .tied = tied}, 1, 1e-5, 1e-4);
    expect_like_the_cpu({.dtype = DType::kBF16, .tied = tied}, 1, 3e-2, kAny);
  }
}

TEST_F(GpuEngine, EveryOptimizerTrainsAsOnTheCpu) {
  for (const OptimizerEntry& entry : optimizer_entries()) {
    if (entry.int8_weights) {  // rounded stochastically: another step begins elsewhere
      expect_like_the_cpu({.optimizer = entry.name, .dtype = DType::kBF16}, 1, 3e-2, kAny, 1);
    } else {
      expect_like_the_cpu({.optimizer = entry.name}, 1, 1e-4, 1e-3);
    }
  }
  // Steps between refreshes work on the GPU.
  for (const char* name : {"galore", "galore_8bit"}) {
    expect_like_the_cpu({.optimizer = name, .project_gradients = true}, 1, 1e-4, 1e-3);
    expect_like_the_cpu({.optimizer = name, .update_gap = 3}, 1, 1e-4, 1e-3);
  }
}

TEST_F(GpuEngine, RanksAndStages) {
  for (const int stage : {0, 1, 2, 3}) {
    for (const char* optimizer : {"adamw_8bit", "galore"})
      expect_like_the_cpu({.optimizer = optimizer, .stage = stage}, 2, 1e-4, 1e-3);
    expect_like_the_cpu({.stage = stage, .fused = true, .clip_mode = ClipMode::kPerTensor}, 2, 1e-4,
                        1e-3);
  }
}

// What is promised of bits: recomputing, fusing, formats that lose nothing and a disk change none.
TEST_F(GpuEngine, RecomputedFusedAndSplitGiveTheSameBits) {
  const Setting plain{.dtype = DType::kBF16, .max_grad_norm = 0, .device = DeviceKind::kGpu};
  const auto run = [](const Setting& s) {
    SingleCommunicator alone;
    return train(alone, s, batches_of(0, 1, 1, -1));
  };
  const Outcome want = run(plain);
  std::vector<Setting> same(9, plain);
  same[1].recompute = Recompute::kFull;
  same[2].recompute = Recompute::kSelective;
  same[3].fused = true;
  same[3].clip_mode = ClipMode::kPerTensor;
  same[4].master = same[6].master = MasterFormat::kSplit;
  same[5].disk = same[6].disk = TestDisk{.weights = true};
  same[7].activations = ActivationPlace::kHost;
  same[8].activations = ActivationPlace::kSsd;
  same[8].recompute = Recompute::kSelective;
  for (std::size_t i = 0; i < same.size(); ++i) {
    const Outcome got = run(same[i]);
    EXPECT_EQ(got.losses, want.losses) << i;
    if (i == 4 || i == 6) continue;  // its masters are halves
    EXPECT_EQ(got.masters, want.masters) << i;
  }
}

TEST_F(GpuEngine, ActivationsElsewhereTakeThePlannedMemoryOnBothSides) {
  for (const ActivationPlace place : {ActivationPlace::kHost, ActivationPlace::kSsd}) {
    const Setting s{.accumulation_steps = 2, .device = DeviceKind::kGpu, .activations = place};
    const std::unique_ptr<TrainableModel> made = tiny_model(s);
    const OptimizerGroups optimizer = make_groups(made->params(), s.optimizer);
    const auto play = [&](Arena& arena) {
      SingleCommunicator alone;
      TrainEngine engine(arena, *made, optimizer, engine_options(s, 2),
                         {alone, stores_of(s, *made, optimizer, alone)});
      InitSource source(3, 0.3);
      engine.load(source);
      arena.begin_phase("step");
      for (int step = 1; step <= 2; ++step) engine.step(batches_of(0, 1, 2, -1), step, 1e-3);
    };
    const auto plan = Arena::make_planning(DeviceKind::kGpu);
    play(*plan);
    const auto arena = Arena::make_gpu(plan->extent_bytes(), plan->pinned().extent_bytes());
    play(*arena);
    EXPECT_EQ(plan->peaks(), arena->peaks());
    EXPECT_EQ(plan->pinned().peaks(), arena->pinned().peaks());
    EXPECT_EQ(plan->pinned().extent_bytes(), arena->pinned().extent_bytes());
  }
}

// Passes between the first and the last are replayed from the second step on, whatever their
// documents and weights are; a step with another number of trained tokens records anew.
TEST_F(GpuEngine, ReplayedPassesGiveTheBitsOfThoseThatAreDone) {
  constexpr int kPasses = 6;
  struct Case {
    Setting setting;
    bool replays = true;
  };
  const Setting plain{.dtype = DType::kBF16, .device = DeviceKind::kGpu};
  std::vector<Case> cases(3, {plain});
  cases[1] = {{.dtype = DType::kBF16,
               .tied = true,
               .recompute = Recompute::kFull,
               .fused = true,
               .clip_mode = ClipMode::kPerTensor}};
  cases[2] = {{.optimizer = "galore", .project_gradients = true}, false};
  for (const Case& c : cases) {
    std::vector<std::vector<float>> weights[2];
    std::vector<double> losses[2];
    for (const bool graphs : {false, true}) {
      const auto arena = Arena::make_gpu(1 << 26, 1 << 26);
      arena->set_poison(true);
      const std::unique_ptr<TrainableModel> made = tiny_model(c.setting);
      const TrainableModel& model = *made;
      const OptimizerGroups optimizer =
          make_groups(model.params(), c.setting.optimizer, c.setting.project_gradients);
      EngineOptions options = engine_options(c.setting, kPasses);
      options.graphs = graphs;
      TrainEngine engine(*arena, model, optimizer, options, stores_of_tests(model, optimizer));
      InitSource source(3, 0.3);
      engine.load(source);
      for (int step = 1; step <= 4; ++step) {
        std::vector<Batch> batches = batches_of(0, 1, kPasses, step == 3 ? 2 : -1);
        std::rotate(batches.begin(), batches.begin() + step, batches.end());
        losses[graphs].push_back(engine.step(batches, step, 1e-3).loss);
      }
      for (const ParamId id : model.params().ids())
        weights[graphs].push_back(own_weights(engine, id));
      // The second step's four passes: in the first they were recorded.
      const bool replays = graphs && c.replays && !tests_use_hostile_stores();
      EXPECT_EQ(engine.replayed_micro_batches(), replays ? 4 : 0);
    }
    EXPECT_EQ(losses[1], losses[0]);
    EXPECT_EQ(weights[1], weights[0]);
  }
}

// Of sizes that 8 bits can take; both sides round alike, so that only sums differ.
TEST_F(GpuEngine, MatmulsInEightBitsTrainAsOnTheCpu) {
  ModelConfig config = odd_config(false);
  config.hidden_size = config.num_heads * config.head_dim * 2;  // 48
  config.head_dim = 16;
  config.intermediate_size = 64;
  constexpr std::int64_t kLength = 16;
  Batch batch{.sequences = 2, .seq_len = kLength};
  for (int i = 0; i < 2 * static_cast<int>(kLength); ++i) {
    batch.tokens.push_back(i * 17 % 61);
    batch.targets.push_back((i * 17 + 17) % 61);
    batch.weights.push_back(1.0f);
    batch.segment_start.push_back(0);
    batch.positions.push_back(i % static_cast<int>(kLength));
  }
  const auto losses = [&](DeviceKind device, bool fp8) {
    const auto arena =
        device == DeviceKind::kCpu ? Arena::make_cpu(1 << 26) : Arena::make_gpu(1 << 26, 1 << 26);
    arena->set_poison(true);
    const Transformer model(config);
    const OptimizerGroups optimizer = make_groups(model.params(), "adamw");
    TrainEngine engine(*arena, model, optimizer,
                       {.fp8 = fp8, .small_elements = 64, .seq_len = kLength});
    InitSource source(3, 0.1);
    engine.load(source);
    std::vector<double> all;
    for (int step = 1; step <= 5; ++step) all.push_back(engine.step({{batch}}, step, 3e-3).loss);
    return all;
  };
  const std::vector<double> plain = losses(DeviceKind::kCpu, false),
                            plain_gpu = losses(DeviceKind::kGpu, false),
                            cpu = losses(DeviceKind::kCpu, true),
                            gpu = losses(DeviceKind::kGpu, true);
  EXPECT_LT(cpu.back(), cpu.front() - 0.1);
  for (std::size_t i = 0; i < cpu.size(); ++i) {
    EXPECT_NEAR(gpu[i], cpu[i], 1e-2 * cpu[i]) << i;
    EXPECT_NEAR(cpu[i], plain[i], 0.05 * plain[i]) << i;
    EXPECT_NE(cpu[i], plain[i]) << i;
    EXPECT_NE(gpu[i], plain_gpu[i]) << i;
  }
}

TEST_F(GpuEngine, MemoryOfDeviceAndHostIsPlanned) {
  for (const auto& [optimizer, stage] : {std::pair{"adamw", 3},
                                         {"q_apollo", 2},
                                         {"galore", 3},
                                         {"muon", 2},
                                         {"scale", 3},
                                         {"frugal layers", 2}}) {
    const Setting s{.optimizer = optimizer, .stage = stage, .dtype = DType::kBF16};
    const std::unique_ptr<TrainableModel> made = tiny_model(s);
    const TrainableModel& model = *made;
    const OptimizerGroups groups = make_groups(model.params(), optimizer, false, 2);
    const auto play = [&](Arena& arena, Communicator& comm) {
      TrainEngine engine(arena, model, groups, engine_options(s, 1),
                         {comm, stores_of_tests(model, groups, comm, s.stage)});
      InitSource source(3, 0.3);
      engine.load(source);
      arena.begin_phase("step");
      for (int step = 1; step <= 3; ++step)
        engine.step(batches_of(comm.rank(), 2, 1, -1), step, 1e-3);
    };
    run_ranks(2, [&](Communicator& comm) {
      choose_gpu(comm.rank());
      const auto plan = Arena::make_planning(DeviceKind::kGpu);
      PlanningCommunicator planned(comm.rank(), 2);
      play(*plan, planned);
      const auto arena = Arena::make_gpu(plan->extent_bytes(), plan->pinned().extent_bytes());
      play(*arena, comm);
      EXPECT_EQ(plan->peaks(), arena->peaks()) << optimizer;
      EXPECT_EQ(plan->pinned().peaks(), arena->pinned().peaks()) << optimizer;
      EXPECT_GT(plan->pinned().extent_bytes(), 0);
    });
  }
}

// A run goes on where it was saved, on either side, with the bits it was saved with; its model is
// exported from the device.
TEST_F(GpuEngine, CheckpointsAndExportsCrossOver) {
  const fs::path dir = fs::temp_directory_path() /
                       fmt::format("thimble-gpu-{}-{}", ::getpid(), std::random_device()());
  fs::create_directories(dir);
  const auto files = make_file_engine();
  const Setting s{.optimizer = "apollo", .dtype = DType::kBF16, .master = MasterFormat::kSplit};
  const std::unique_ptr<TrainableModel> made = tiny_model(s);
  const TrainableModel& model = *made;
  const OptimizerGroups optimizer = make_groups(model.params(), s.optimizer);
  const auto* transformer = dynamic_cast<const Transformer*>(made.get());
  const auto on = [&](Arena& arena, auto&& body) {
    TrainEngine engine(arena, model, optimizer, engine_options(s, 1),
                       stores_of_tests(model, optimizer));
    body(engine);
  };
  const auto cpu = Arena::make_cpu(1 << 26), gpu = Arena::make_gpu(1 << 26, 1 << 26);
  const auto contents = [&](TrainEngine& engine) {
    std::vector<std::vector<float>> all;
    for (const ParamId id : model.params().ids()) all.push_back(own_weights(engine, id));
    for (const StateEntry& entry : engine.table().entries()) {
      if (!entry.in_weight_store() && entry.slot.dtype == DType::kF32)
        all.push_back(held_values(engine, entry));
    }
    return all;
  };
  const auto steps = [&](TrainEngine& engine, int first, int last) {
    for (int step = first; step <= last; ++step) engine.step({{micro_batch(step)}}, step, 1e-3);
  };
  std::vector<std::vector<float>> saved, ended;
  on(*gpu, [&](TrainEngine& engine) {
    InitSource source(3, 0.3);
    engine.load(source);
    steps(engine, 1, 2);
    saved = contents(engine);
    save_checkpoint(engine, *files, dir, {.step = 2}, {.model_config = "{}"});
    if (transformer != nullptr)
      export_hf(*gpu, *transformer, engine.store(),
                {.directory = dir / "gpu", .dtype = DType::kF32});
    steps(engine, 3, 4);
    ended = contents(engine);
  });
  const auto resume = [&](TrainEngine& engine) {
    const auto reader =
        CheckpointReader::open(dir / "ckpt-2", {*files, {}}, CheckpointCheck::kManifest);
    load_checkpoint(engine, reader);
    EXPECT_EQ(contents(engine), saved);
    EXPECT_FALSE(saved.empty());
  };
  on(*gpu, [&](TrainEngine& engine) {
    resume(engine);
    steps(engine, 3, 4);
    EXPECT_EQ(contents(engine), ended);
  });
  on(*cpu, [&](TrainEngine& engine) {
    resume(engine);
    if (transformer != nullptr)
      export_hf(*cpu, *transformer, engine.store(),
                {.directory = dir / "cpu", .dtype = DType::kF32});
  });
  const auto bytes = [&](const char* name) {
    std::ifstream in(dir / name / "model.safetensors", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  EXPECT_EQ(bytes("gpu"), bytes("cpu"));
  EXPECT_EQ(bytes("gpu").empty(), transformer == nullptr);
  fs::remove_all(dir);
}

}  // namespace
}  // namespace thimble
