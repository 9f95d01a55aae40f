// A checkpoint written on N ranks at stage S is the same bytes as one written on M ranks at stage
// T, and resumes there.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

#include "checkpoint/checkpoint_reader.h"
#include "core/io/file_engine.h"
#include "models/hf_export.h"
#include "models/transformer.h"
#include "models/weight_sources.h"
#include "optim/groups.h"
#include "tests/parallel/odd_model.h"
#include "tests/parallel/rank_team.h"
#include "tests/parallel/stores_of_tests.h"
#include "train/save_checkpoint.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kSeq = 9;

ModelConfig odd_config() {
  ModelConfig c;
  c.hidden_size = 20;
  c.intermediate_size = 33;
  c.num_layers = 2;
  c.num_heads = 2;
  c.num_kv_heads = 1;
  c.head_dim = 10;
  c.vocab_size = 53;
  c.max_positions = 32;
  c.windows = {0, 0};
  return c;
}

std::unique_ptr<TrainableModel> make_model() {
  if (tests_train_odd_model()) return std::make_unique<OddModel>(false);
  return std::make_unique<Transformer>(odd_config());
}

Batch rows_of(std::int64_t step, std::int64_t first, std::int64_t rows) {
  Batch b{.sequences = rows, .seq_len = kSeq};
  for (std::int64_t r = first; r < first + rows; ++r) {
    for (std::int64_t t = 0; t < kSeq; ++t) {
      b.tokens.push_back(static_cast<std::int32_t>((step * 11 + r * 7 + t * 3) % 53));
      b.targets.push_back(static_cast<std::int32_t>((step * 11 + r * 7 + t * 3 + 3) % 53));
      b.weights.push_back((r + t) % 4 == 0 ? 0.0f : 1.0f);
      b.segment_start.push_back(0);
      b.positions.push_back(static_cast<std::int32_t>(t));
    }
  }
  return b;
}

constexpr std::int64_t kRows = 12;  // of a step: a multiple of 1, 2, 3 and 4 ranks

struct Layout {
  int ranks = 1, stage = 0;
  std::string optimizer = "adamw";
  MasterFormat master = MasterFormat::kF32;
};

// Small enough for every matrix here, with refreshes between and at saves.
OptimizerGroups make_small_groups(const ParamTable& params, const std::string& name) {
  OptimizerSettings settings{.name = name, .rank = 4, .update_gap = 4};
  GroupSettings main{.label = "main", .match = "", .optimizer = settings, .lr = 1e-2};
  GroupSettings fallback = main;
  fallback.optimizer.name = "adamw";
  return {params, narrow_groups(params, main), main, fallback};
}

class ResumeTest : public testing::TestWithParam<std::tuple<int, int, int, int>> {
 protected:
  ResumeTest()
      : dir_(fs::temp_directory_path() /
             fmt::format("thimble-resume-{}-{}", ::getpid(), std::random_device()())) {
    fs::create_directories(dir_);
  }
  ~ResumeTest() override { fs::remove_all(dir_); }

  // Runs body(engine) on every rank of a layout.
  void on(const Layout& layout, const std::function<void(TrainEngine&, FileEngine&)>& body) {
    run_ranks(layout.ranks, [&](Communicator& comm) {
      const auto arena = Arena::make_cpu(1 << 26);
      const std::unique_ptr<TrainableModel> model = make_model();
      const OptimizerGroups optimizer = make_small_groups(model->params(), layout.optimizer);
      TrainEngine engine(*arena, *model, optimizer,
                         {.dtype = DType::kBF16,
                          .grad_dtype = DType::kBF16,
                          .zero_stage = layout.stage,
                          .comm_dtype = DType::kF32,
                          .small_elements = 50,
                          .master = layout.master,
                          .seq_len = kSeq},
                         {comm, stores_of_tests(*model, optimizer, comm, layout.stage)});
      const auto files = make_file_engine();
      body(engine, *files);
    });
  }

  static double step(TrainEngine& engine, std::int64_t number) {
    const std::int64_t rows = kRows / engine.comm().size();
    const Batch batch = rows_of(number, rows * engine.comm().rank(), rows);
    return engine.step(std::span(&batch, 1), number, 1e-2).loss;
  }

  // Every array of a checkpoint, whole.
  std::map<std::string, std::vector<std::byte>> contents(const fs::path& checkpoint) {
    const auto files = make_file_engine();
    const CheckpointReader reader = CheckpointReader::open(checkpoint, {*files, {}});
    std::map<std::string, std::vector<std::byte>> all;
    for (const auto& [key, placed] : reader.tensors()) {
      auto& bytes = all[key];
      bytes.resize(static_cast<std::size_t>(placed.bytes));
      reader.read(placed.tensor.name, placed.tensor.slot, 0, bytes);
    }
    return all;
  }

  fs::path dir_;
};

TEST_P(ResumeTest, OnOtherRanksAndStages) {
  const auto [n, s, m, t] = GetParam();
  std::vector<double> straight, resumed;
  on({n, s}, [&, leader = &straight](TrainEngine& engine, FileEngine& files) {
    InitSource source(5, 0.2);
    engine.load(source);
    for (int i = 1; i <= 3; ++i) step(engine, i);
    save_checkpoint(engine, files, dir_ / "a", {.step = 3, .tokens_seen = 324}, {"{}", "byte", ""});
    for (int i = 4; i <= 8; ++i) {
      const double loss = step(engine, i);
      if (engine.comm().rank() == 0) leader->push_back(loss);
    }
  });
  on({m, t}, [&, leader = &resumed](TrainEngine& engine, FileEngine& files) {
    const CheckpointReader reader = CheckpointReader::open(dir_ / "a" / "ckpt-3", {files, {}});
    const TrainState state = load_checkpoint(engine, reader);
    EXPECT_EQ(state.step, 3);
    EXPECT_EQ(state.tokens_seen, 324);
    save_checkpoint(engine, files, dir_ / "b", state, {"{}", "byte", ""});
    if (const auto* transformer = dynamic_cast<const Transformer*>(&engine.model())) {
      export_hf(engine.arena(), *transformer, engine.store(),
                {.directory = dir_ / "model", .writes = engine.comm().rank() == 0});
    }
    for (int i = 4; i <= 8; ++i) {
      const double loss = step(engine, i);
      if (engine.comm().rank() == 0) leader->push_back(loss);
    }
  });
  EXPECT_EQ(contents(dir_ / "a" / "ckpt-3"), contents(dir_ / "b" / "ckpt-3"));
  EXPECT_EQ(fs::exists(dir_ / "model" / "model.safetensors"), !tests_train_odd_model());
  ASSERT_EQ(straight.size(), 5u);
  ASSERT_EQ(resumed.size(), 5u);
  for (std::size_t i = 0; i < 5; ++i) EXPECT_NEAR(resumed[i], straight[i], 2e-3 * straight[i]) << i;
}

INSTANTIATE_TEST_SUITE_P(Layouts, ResumeTest,
                         testing::Values(std::tuple{1, 0, 4, 3}, std::tuple{4, 3, 1, 0},
                                         std::tuple{2, 1, 3, 2}, std::tuple{3, 2, 2, 3},
                                         std::tuple{4, 0, 3, 1}, std::tuple{3, 3, 4, 0},
                                         std::tuple{2, 2, 2, 1}, std::tuple{1, 0, 1, 0}));

// In the gap between two refreshes, the one at step 5 included: not one bit differs. On other ranks
// the arrays are the same, and what follows is close.
TEST_F(ResumeTest, EveryOptimizerAndWeightFormat) {
  for (const OptimizerEntry& entry : optimizer_entries()) {
    for (const MasterFormat master :
         {MasterFormat::kF32, MasterFormat::kSplit, MasterFormat::kNone}) {
      if (master != MasterFormat::kF32 && std::string_view(entry.name) != "adamw" &&
          std::string_view(entry.name) != "apollo")
        continue;
      const std::string where = fmt::format("{}-{}", entry.name, static_cast<int>(master));
      std::vector<double> straight, again, elsewhere;
      const auto go_on = [](TrainEngine& engine, std::vector<double>& losses) {
        for (int i = 4; i <= 7; ++i) {
          const double loss = step(engine, i);
          if (engine.comm().rank() == 0) losses.push_back(loss);
        }
      };
      const Layout two{2, 2, entry.name, master},
          three{3, entry.int8_weights ? 1 : 3, entry.name, master};
      on(two, [&](TrainEngine& engine, FileEngine& files) {
        InitSource source(5, 0.2);
        engine.load(source);
        for (int i = 1; i <= 3; ++i) step(engine, i);
        save_checkpoint(engine, files, dir_ / where, {.step = 3}, {"{}", "byte", ""});
        go_on(engine, straight);
      });
      const auto resume = [&](const Layout& layout, std::vector<double>& losses) {
        on(layout, [&](TrainEngine& engine, FileEngine& files) {
          const auto reader = CheckpointReader::open(dir_ / where / "ckpt-3", {files, {}});
          const TrainState state = load_checkpoint(engine, reader);
          save_checkpoint(engine, files, dir_ / (where + "-" + std::to_string(layout.ranks)), state,
                          {"{}", "byte", ""});
          go_on(engine, losses);
        });
        EXPECT_EQ(contents(dir_ / where / "ckpt-3"),
                  contents(dir_ / (where + "-" + std::to_string(layout.ranks)) / "ckpt-3"))
            << where;
      };
      resume(two, again);
      resume(three, elsewhere);
      EXPECT_EQ(again, straight) << where;
      ASSERT_EQ(elsewhere.size(), straight.size());
      for (std::size_t i = 0; i < straight.size(); ++i)
        EXPECT_NEAR(elsewhere[i], straight[i], 2e-2 * straight[i]) << where << " " << i;
    }
  }
}

TEST_F(ResumeTest, AFullDiskOnOneRankFailsTheSaveOnAll) {
  on({3, 1}, [&](TrainEngine& engine, FileEngine& files) {
    InitSource source(5, 0.2);
    engine.load(source);
    // The directory of the save is a file: rank 0 cannot create it, and the others hear of it.
    if (engine.comm().rank() == 0) std::ofstream(dir_ / "blocked") << "x";
    try {
      save_checkpoint(engine, files, dir_ / "blocked", {.step = 1}, {"{}", "byte", ""});
      ADD_FAILURE() << "saved into a file";
    } catch (const SystemError& e) {
      EXPECT_NE(std::string(e.what()).find("rank 0"), std::string::npos) << e.what();
    }
  });
}

}  // namespace
}  // namespace thimble
