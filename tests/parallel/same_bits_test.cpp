// Where things are, when the update runs and what is computed again never change a bit: every two
// choices together, by a covering array, against the run that keeps everything in memory.
#include <cstdlib>
#include <random>
#include <set>
#include <string_view>

#include "core/io/crc32c.h"
#include "tests/parallel/covering_array.h"
#include "tests/parallel/tiny_training.h"

namespace thimble {
namespace {

constexpr int kSteps = 5;

enum Factor : std::size_t {
  kOptimizer,
  kState,      // memory, disk with two slots, with one, with two and some of it in memory
  kUpdate,     // after the backward pass, within it, under the next forward pass
  kMicro,      // one micro-batch, three
  kRanks,      // 1, 2, 3
  kStage,      // 0 to 3
  kWeights,    // memory, disk
  kSaved,      // kept, whole blocks computed again, swapped
  kFormat,     // f32; bf16 with a remainder; bf16 alone
  kGradients,  // memory, disk
  kOrder,      // one micro-batch after the other, layers
  kNumFactors
};
enum Update : int { kAfter, kFused, kDelayed };
enum Format : int { kAllF32, kSplit16, kNoMaster };

std::vector<int> levels() {
  const auto optimizers = static_cast<int>(optimizer_entries().size());
  return {optimizers, 4, 3, 2, 3, 4, 2, 3, 3, 2, 2};
}

const OptimizerEntry& optimizer_of(const CoveringRow& row) {
  return optimizer_entries()[static_cast<std::size_t>(row[kOptimizer])];
}

// What cannot be together, and what the program says then; nullptr: the job file cannot say it.
struct Rule {
  const char* says;
  bool (*broken)(const CoveringRow&);
};
bool is_int8(const CoveringRow& row) {
  return row[kOptimizer] != kOpen && optimizer_of(row).int8_weights;
}
const std::vector<Rule>& rules() {
  static const std::vector<Rule> all{
      {nullptr, [](const CoveringRow& r) { return r[kWeights] == 1 && r[kState] == 0; }},
      {nullptr, [](const CoveringRow& r) { return r[kGradients] == 1 && r[kState] == 0; }},
      {"offload.weights = \"ssd\" needs parallelism.zero_stage = 3",
       [](const CoveringRow& r) {
         return r[kWeights] == 1 && r[kRanks] > 0 && r[kStage] != kOpen && r[kStage] < 3;
       }},
      {"needs parallelism.zero_stage = 2 or 3",
       [](const CoveringRow& r) {
         return r[kGradients] == 1 && r[kRanks] > 0 && r[kStage] != kOpen && r[kStage] < 2;
       }},
      {"optimizer.fused_backward = true",
       [](const CoveringRow& r) { return r[kGradients] == 1 && r[kUpdate] == kFused; }},
      {"8-bit weights: allowed with offload.weights = \"memory\"",
       [](const CoveringRow& r) { return is_int8(r) && r[kWeights] == 1; }},
      {"8-bit weights: allowed with parallelism.zero_stage 0, 1, 2",
       [](const CoveringRow& r) {
         return is_int8(r) && ((r[kStage] == 3 && r[kRanks] > 0) || r[kFormat] == kAllF32 ||
                               r[kFormat] == kSplit16);
       }},
  };
  return all;
}
bool is_allowed(const CoveringRow& row) {
  return std::none_of(rules().begin(), rules().end(), [&](const Rule& r) { return r.broken(row); });
}

Setting plain_setting(const CoveringRow& row) {
  const bool fused = row[kUpdate] == kFused;
  return {.optimizer = optimizer_of(row).name,
          .stage = row[kStage],
          .accumulation_steps = row[kMicro] == 1 ? 3 : 1,
          .dtype = row[kFormat] == kAllF32 ? DType::kF32 : DType::kBF16,
          .comm_dtype = DType::kF32,
          .tied = row[kSaved] == 1,
          .master = row[kFormat] == kAllF32    ? MasterFormat::kF32
                    : row[kFormat] == kSplit16 ? MasterFormat::kSplit
                                               : MasterFormat::kNone,
          .fused = fused,
          .clip_mode = fused ? ClipMode::kTwoPass : ClipMode::kExact,
          .update_gap = 2,
          .odd_model = false};
}

// Everything in memory, updates after the backward pass.
Setting resident_setting(const CoveringRow& row) {
  Setting s = plain_setting(row);
  s.fused = false;
  s.clip_mode = ClipMode::kExact;
  return s;
}

Setting moved_setting(const CoveringRow& row) {
  Setting s = plain_setting(row);
  s.delayed_update = row[kUpdate] == kDelayed;
  s.recompute = row[kSaved] == 1 ? Recompute::kFull : Recompute::kNone;
  if (row[kSaved] == 2) s.activations = ActivationPlace::kSsd;
  s.stored_gradients = row[kGradients] == 1;
  s.by_layers = row[kOrder] == 1;
  if (row[kState] != 0) {
    s.disk = TestDisk{.slots = row[kState] == 2 ? 1 : 2,
                      .weights = row[kWeights] == 1,
                      .cache_bytes = row[kState] == 3 ? 48 * kKiB : 0,
                      .commit_steps = row[kState] == 3 ? 2 : 1};
  }
  return s;
}

std::string name_of(const CoveringRow& row) {
  const Setting s = moved_setting(row);
  const std::string disk =
      s.disk ? fmt::format(", {} slots, cache {}", s.disk->slots, s.disk->cache_bytes) : "";
  return fmt::format(
      "{}, format {}, {} ranks at stage {}, {} micro-batches{}, update {}, state {}{}{}{}, saved "
      "{}",
      s.optimizer, row[kFormat], row[kRanks] + 1, s.stage, s.accumulation_steps,
      s.by_layers ? " by layers" : "", row[kUpdate], row[kState], disk,
      row[kWeights] == 1 ? ", weights on disk" : "", s.stored_gradients ? ", gradients too" : "",
      row[kSaved]);
}

// What five steps on a rank have led to: losses and norms, every weight whole, and what it holds of
// the master.
struct Bits {
  std::vector<double> numbers;
  std::vector<std::uint32_t> hashes;
  friend bool operator==(const Bits&, const Bits&) = default;
};

std::uint32_t hash_of(const std::vector<float>& values) {
  return crc32c(std::as_bytes(std::span(values)));
}

Bits train_five_steps(Communicator& comm, const Setting& s) {
  const auto arena = Arena::make_cpu(1 << 26);
  arena->set_poison(true);
  const std::unique_ptr<TrainableModel> model = tiny_model(s);
  const OptimizerGroups optimizer =
      make_groups(model->params(), s.optimizer, s.project_gradients, s.update_gap);
  EngineStores stores = s.disk ? disk_stores(optimizer, comm, *s.disk) : EngineStores{};
  if (s.activations) stores.activations = activations_elsewhere(*s.activations);
  TrainEngine engine(*arena, *model, optimizer, engine_options(s, s.accumulation_steps),
                     {comm, std::move(stores)});
  InitSource source(3, 0.3);
  engine.load(source);
  Bits bits;
  for (int step = 1; step <= kSteps; ++step) {
    std::vector<Batch> batches;
    for (int i = 0; i < s.accumulation_steps; ++i)
      batches.push_back(micro_batch((step * s.accumulation_steps + i) * comm.size() + comm.rank()));
    const StepResult result = engine.step(batches, step, 1e-3);
    EXPECT_FALSE(result.skipped);
    bits.numbers.push_back(result.loss);
    bits.numbers.push_back(result.grad_norm);
  }
  engine.finish_update();
  for (const ParamId id : model->params().ids()) {
    bits.hashes.push_back(hash_of(shown_weight(engine, id)));
    const StateEntry* master = engine.table().find(id, StateKind::kMaster);
    if (master != nullptr) bits.hashes.push_back(hash_of(held_values(engine, *master)));
  }
  return bits;
}

void expect_same_bits(const CoveringRow& row) {
  SCOPED_TRACE(name_of(row));
  run_ranks(row[kRanks] + 1, [&](Communicator& comm) {
    const Bits want = train_five_steps(comm, resident_setting(row)),
               got = train_five_steps(comm, moved_setting(row));
    EXPECT_EQ(got.numbers, want.numbers) << name_of(row);
    EXPECT_EQ(got.hashes, want.hashes) << name_of(row);
    for (const double number : got.numbers) EXPECT_TRUE(std::isfinite(number)) << name_of(row);
  });
}

CoveringArray array(unsigned seed) {
  return {levels(), is_allowed, seed};
}

class SameBits : public testing::Test {
 protected:
  // What is on disk lies in memory here, for the rows would mostly wait for the disk.
  static void SetUpTestSuite() { ::setenv("THIMBLE_TEST_STORES", "disk", 1); }
};

TEST_F(SameBits, RowsHaveEveryPairThatGoesTogether) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  const CoveringArray all = array(seed);
  std::set<std::array<std::size_t, 4>> pairs;
  for (const CoveringRow& row : all.rows()) {
    EXPECT_TRUE(is_allowed(row)) << name_of(row);
    for (std::size_t f = 0; f < kNumFactors; ++f) {
      for (std::size_t g = f + 1; g < kNumFactors; ++g)
        pairs.insert({f, g, static_cast<std::size_t>(row[f]), static_cast<std::size_t>(row[g])});
    }
  }
  // Two rules take a pair each, one the updates within the backward pass, and of every optimizer
  // with 8-bit weights its weights on disk and two formats. Whole columns stay.
  const auto int8 = static_cast<std::size_t>(
      std::count_if(optimizer_entries().begin(), optimizer_entries().end(),
                    [](const OptimizerEntry& e) { return e.int8_weights; }));
  EXPECT_EQ(all.num_impossible(), 3 + 3 * int8);
  EXPECT_EQ(pairs.size() + all.num_impossible(), all.num_pairs());
  EXPECT_LT(all.rows().size(), 10 * optimizer_entries().size());
}

// What a rule leaves out is refused, with the key that it names.
TEST_F(SameBits, WhatIsLeftOutIsRefusedByName) {
  std::mt19937 random(7);
  const std::vector<int> most = levels();
  for (const Rule& rule : rules()) {
    if (rule.says == nullptr) continue;
    CoveringRow row(kNumFactors);
    const auto is_rules_own = [&] {
      return rule.broken(row) && std::all_of(rules().begin(), rules().end(), [&](const Rule& r) {
               return &r == &rule || !r.broken(row);
             });
    };
    do {
      for (std::size_t f = 0; f < kNumFactors; ++f)
        row[f] = static_cast<int>(random() % static_cast<unsigned>(most[f]));
    } while (!is_rules_own());
    std::string said;
    run_ranks(row[kRanks] + 1, [&](Communicator& comm) {
      try {
        train_five_steps(comm, moved_setting(row));
      } catch (const UserError& e) {
        if (comm.rank() == 0) said = e.what();
      }
    });
    EXPECT_NE(said.find(rule.says), std::string::npos) << name_of(row) << ": " << said;
  }
}

TEST_F(SameBits, OfSomeRows) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::vector<CoveringRow> rows = array(seed).rows();
  std::mt19937 random(seed);
  std::shuffle(rows.begin(), rows.end(), random);
  rows.resize(std::min<std::size_t>(rows.size(), 8));
  for (const CoveringRow& row : rows) expect_same_bits(row);
}

TEST_F(SameBits, OfEveryRow) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  const CoveringArray all = array(seed);
  for (const CoveringRow& row : all.rows()) expect_same_bits(row);
}

}  // namespace
}  // namespace thimble
