// State in the memory of a GPU's host, updated by the GPU, by the CPU, and by both: the bits of
// state on the GPU, and the planned memory on both sides.
#include "offload/hosted_state.h"

#include <random>

#include "checkpoint/checkpoint_reader.h"
#include "optim/registry.h"
#include "tests/gpu/like_the_cpu.h"
#include "tests/offload/state_of_tests.h"
#include "train/save_checkpoint.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using testing::Bytes;

std::vector<std::byte> bytes_there(const Tensor& tensor) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.nbytes()));
  if (!bytes.empty()) ops::to_host(bytes.data(), tensor);
  return bytes;
}

class HostedStateTest : public GpuEngine {};

// Leased at random, as announced or otherwise, some at once, beside the same in plain memory.
class RandomHostUses {
 public:
  RandomHostUses(int rank, std::int64_t window, unsigned seed)
      : table_({.weights = DType::kBF16, .master = MasterFormat::kF32, .divided = true}, 2),
        rank_(rank),
        random_(seed),
        state_(*arena_, *table_, rank, window) {
    arena_->set_poison(true);
    create_state(state_, *table_, 0);
    for (const StateEntry& entry : table_->entries()) {
      if (entry.in_weight_store()) continue;
      entries_.push_back(&entry);
      reset(entry.id);
    }
  }

  void some_uses() {
    std::vector<StateUse> order;
    for (std::uint64_t n = random_() % 90; n > 0; --n) order.push_back(random_use());
    std::vector<StateUse> announced = order;
    if (random_() % 4 == 0) announced.resize(random_() % (order.size() + 1));
    if (random_() % 4 == 0) std::shuffle(announced.begin(), announced.end(), random_);
    state_.announce(announced);
    std::vector<StateUse> together;
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (random_() % 16 == 0) order[i] = random_use();
      if (random_() % 8 == 0) state_.announce(std::span(order).subspan(i));
      const bool free = std::none_of(together.begin(), together.end(), [&](const StateUse& other) {
        return other.id == order[i].id;
      });
      if (!free || together.size() == 4) run(together);
      together.push_back(order[i]);
    }
    run(together);
    if (random_() % 4 == 0) renew();
    state_.commit(1);
  }
  void expect_all() {
    for (const StateEntry* entry : entries_) {
      const StateUse all{.id = entry->id, .rows = entry->held_rows(rank_), .on_cpu = true};
      EXPECT_EQ(bytes_there(state_.acquire(all).tensor()), bytes_.at(entry->id))
          << entry->slot.name;
    }
  }

 private:
  void renew() {
    const StateId id = entries_[random_() % entries_.size()]->id;
    if (random_() % 2 == 0) state_.erase(id);
    state_.create(id);
    reset(id);
  }
  void reset(StateId id) {
    bytes_[id].assign(static_cast<std::size_t>((*table_)[id].held(rank_).size), std::byte{});
  }
  std::span<std::byte> range(const StateUse& use) {
    const StateEntry& entry = (*table_)[use.id];
    if (entry.slot.shared()) return bytes_.at(use.id);
    const ByteRange of = entry.range(use.rows);
    if (of.size == 0) return {};
    return std::span(bytes_.at(use.id))
        .subspan(static_cast<std::size_t>(of.begin - entry.held(rank_).begin),
                 static_cast<std::size_t>(of.size));
  }
  StateUse random_use() {
    const StateEntry& entry = *entries_[random_() % entries_.size()];
    const Slice held = entry.held_rows(rank_);
    const std::int64_t most = std::min<std::int64_t>(held.rows(), 200);
    const auto rows = static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(most + 1));
    const std::int64_t begin =
        held.begin +
        static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(held.rows() - rows + 1));
    constexpr std::array kAccesses{StateAccess::kRead, StateAccess::kChange,
                                   StateAccess::kOverwrite};
    return {.id = entry.id,
            .rows = {begin, begin + rows},
            .access = kAccesses[random_() % 3],
            .on_cpu = random_() % 2 == 0};
  }
  void run(std::vector<StateUse>& together) {
    std::vector<std::pair<StateUse, std::unique_ptr<StateLease>>> leases;
    for (const StateUse& use : together) {
      leases.emplace_back(use, std::make_unique<StateLease>(state_.acquire(use)));
      const Tensor& lent = leases.back().second->tensor();
      EXPECT_EQ(lent.device().kind == DeviceKind::kCpu, use.on_cpu);
      const std::span<std::byte> kept = range(use);
      ASSERT_EQ(static_cast<std::size_t>(lent.nbytes()), kept.size());
      if (use.access != StateAccess::kOverwrite) {
        EXPECT_EQ(bytes_there(lent), std::vector(kept.begin(), kept.end()))
            << (*table_)[use.id].slot.name;
      }
    }
    std::shuffle(leases.begin(), leases.end(), random_);
    for (auto& [use, lease] : leases) {
      if (use.access != StateAccess::kRead && lease->tensor().nbytes() > 0) {
        const std::span<std::byte> kept = range(use);
        const Bytes bytes = testing::many_random_bytes(kept.size(), random_());
        std::copy(bytes.begin(), bytes.end(), kept.begin());
        ops::from_host(lease->tensor(), bytes.data());
      }
      lease.reset();
    }
    together.clear();
  }

  testing::TestTable table_;
  int rank_;
  std::mt19937_64 random_;
  std::unique_ptr<Arena> arena_ = Arena::make_gpu(16 * kMiB, 16 * kMiB);
  HostedState state_;
  std::vector<const StateEntry*> entries_;
  std::map<StateId, std::vector<std::byte>> bytes_;
};

TEST_F(HostedStateTest, IsAsPlainMemory) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  for (const int rank : {0, 1}) {
    for (const std::int64_t window : {128 * kKiB, kMiB}) {
      RandomHostUses uses(rank, window, seed);
      for (int i = 0; i < 40; ++i) uses.some_uses();
      uses.expect_all();
    }
  }
}

TEST_F(HostedStateTest, NamesAWindowThatIsTooSmall) {
  const auto arena = Arena::make_gpu(kMiB, 16 * kMiB);
  const testing::TestTable table({.weights = DType::kBF16, .master = MasterFormat::kF32});
  HostedState state(*arena, *table, 0, 1024);
  create_state(state, *table, 0);
  const auto ids = table->params().ids();
  const StateEntry& entry = *table->find(*ids.begin(), StateKind::kMaster);
  const StateUse use{.id = entry.id, .rows = entry.held_rows(0), .access = StateAccess::kChange};
  try {
    const StateLease lease = state.acquire(use);
    FAIL() << "it was lent";
  } catch (const SystemError& e) {
    EXPECT_NE(std::string(e.what()).find("too small for an update of matrix"), std::string::npos)
        << e.what();
  }
}

// The emulator takes long for norms, row by row, so that models have few; with many words the
// embedding is large enough for state in 8 bits. Updates do not depend on positions.
constexpr std::int64_t kPositions = 5, kManyWords = 257;
constexpr std::int32_t kFewWords = 19;

std::unique_ptr<TrainableModel> small_model(bool many_words) {
  ModelConfig c = odd_config(many_words);
  c.hidden_size = 16;
  c.intermediate_size = 21;
  c.num_layers = 1;
  c.windows = {0};
  c.num_heads = 2;
  c.vocab_size = many_words ? kManyWords : std::int64_t{kFewWords};
  return std::make_unique<Transformer>(c);
}

std::vector<Batch> short_batches(const Communicator& comm, int micro_batches, int empty) {
  std::vector<Batch> batches = batches_of(comm.rank(), comm.size(), micro_batches, empty);
  for (Batch& b : batches) {
    b.sequences = 1;
    b.seq_len = kPositions;
    for (std::int32_t& token : b.tokens) token %= kFewWords;
    for (std::int32_t& target : b.targets) target %= kFewWords;
    b.tokens.resize(kPositions);
    b.targets.resize(kPositions);
    b.weights.resize(kPositions);
    b.segment_start.resize(kPositions);
    b.positions.resize(kPositions);
  }
  return batches;
}

// All that training has led to.
struct Trained {
  std::vector<double> losses;
  std::vector<std::vector<std::byte>> state;
};

Trained train_five(Communicator& comm, const Setting& s) {
  const auto arena = Arena::make_gpu(1 << 26, 1 << 26);
  arena->set_poison(true);
  const std::unique_ptr<TrainableModel> model = small_model(s.wide);
  const OptimizerGroups optimizer =
      make_groups(model->params(), s.optimizer, s.project_gradients, s.update_gap);
  EngineOptions options = engine_options(s, s.accumulation_steps);
  options.seq_len = kPositions;
  TrainEngine engine(*arena, *model, optimizer, options,
                     {comm, s.host ? host_stores(optimizer) : EngineStores{}});
  InitSource source(3, 0.3);
  engine.load(source);
  Trained trained;
  for (int step = 1; step <= 5; ++step) {
    const int empty = step == 2 && s.accumulation_steps > 1 ? 0 : -1;
    const StepResult result =
        engine.step(short_batches(comm, s.accumulation_steps, empty), step, 1e-3);
    EXPECT_FALSE(result.skipped);
    trained.losses.push_back(result.loss);
  }
  StateResidency& state = engine.state();
  for (const StateEntry& entry : engine.table().entries()) {
    if (entry.slot.kind == StateKind::kGradient || !engine.table().kept(entry, 5)) continue;
    trained.state.push_back(bytes_there(
        state.acquire({.id = entry.id, .rows = entry.held_rows(comm.rank()), .on_cpu = true})
            .tensor()));
  }
  return trained;
}

void expect_same_trained(const Trained& got, const Trained& want, const std::string& where) {
  EXPECT_EQ(got.losses, want.losses) << where;
  EXPECT_TRUE(got.state == want.state) << where;
}

// Both halves of the promise: where state is changes nothing, nor who updates it.
void expect_bits_of_state_on_the_gpu(const OptimizerEntry& entry, int turn) {
  SingleCommunicator alone;
  constexpr std::array kShares{0.5, 0.0, 1.0, 0.3};
  for (const int micro_batches : {1, 3}) {
    const bool bf16 = entry.int8_weights || ++turn % 2 == 0;
    Setting s{.optimizer = entry.name,
              .accumulation_steps = micro_batches,
              .dtype = bf16 ? DType::kBF16 : DType::kF32,
              .wide = micro_batches == 1 && std::string_view(entry.name).ends_with("8bit"),
              .master = turn % 4 == 0 ? MasterFormat::kSplit : MasterFormat::kF32,
              .max_grad_norm = 0,
              .update_gap = 2,
              .device = DeviceKind::kGpu};
    if (entry.int8_weights) s.master = MasterFormat::kNone;
    const Trained want = train_five(alone, s);
    for (const bool fused : {false, true}) {
      s.host = kShares[static_cast<std::size_t>(turn + micro_batches * (fused ? 1 : 0)) %
                       kShares.size()];
      s.fused = fused;
      s.clip_mode = fused ? ClipMode::kPerTensor : ClipMode::kExact;
      s.stored_gradients = !fused && turn % 4 < 2;
      expect_same_trained(
          train_five(alone, s), want,
          fmt::format("{} x {}, share {}{}{}", entry.name, micro_batches, *s.host,
                      fused ? ", fused" : "", s.stored_gradients ? ", gradients on the host" : ""));
    }
  }
}

// One of each kind: any rows and 8 bits, sums between rounds, whole matrices, the CPU alone.
TEST_F(HostedStateTest, OptimizersGiveTheBitsOfStateOnTheGpu) {
  int turn = 0;
  for (const char* name : {"adamw_8bit", "apollo", "muon", "galore"}) {
    const OptimizerEntry* entry = find_optimizer(name);
    ASSERT_NE(entry, nullptr) << name;
    expect_bits_of_state_on_the_gpu(*entry, turn++);
  }
}

TEST_F(HostedStateTest, EveryOptimizerGivesTheBitsOfStateOnTheGpu) {
  int turn = 0;
  for (const OptimizerEntry& entry : optimizer_entries())
    expect_bits_of_state_on_the_gpu(entry, turn++);
}

// By rank, with every share of the GPU's.
void expect_bits_on_ranks(const Setting& s) {
  run_ranks(s.stage == 0 ? 1 : 2, [&](Communicator& comm) {
    choose_gpu(comm.rank());
    Setting resident = s;
    resident.delayed_update = false;
    const Trained want = train_five(comm, resident);
    for (const double share : {0.0, 0.5}) {
      Setting hosted = s;
      hosted.host = share;
      hosted.stored_gradients = s.stage > 1;
      expect_same_trained(train_five(comm, hosted), want,
                          fmt::format("{} stage {} share {}", s.optimizer, s.stage, share));
    }
  });
}

TEST_F(HostedStateTest, FormatsRanksAndStagesGiveTheBitsOfStateOnTheGpu) {
  const Setting plain{.optimizer = "adamw",
                      .dtype = DType::kBF16,
                      .comm_dtype = DType::kBF16,
                      .device = DeviceKind::kGpu};
  std::vector<Setting> all(4, plain);
  all[1].master = MasterFormat::kSplit;
  all[2].master = MasterFormat::kNone;
  all[2].optimizer = "lion";
  all[3].delayed_update = true;
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].stage = static_cast<int>(i);
    all[i].accumulation_steps = 1 + static_cast<int>(i % 2);
    expect_bits_on_ranks(all[i]);
  }
}

TEST_F(HostedStateTest, MemoryOnBothSidesAndTrafficAreThePlanned) {
  for (const auto& [optimizer, share] :
       {std::pair{"adamw", 0.5}, {"muon", 0.0}, {"adamw_8bit", 0.3}}) {
    for (const bool stored : {*optimizer == 'm', true}) {
      const Setting s{.optimizer = optimizer,
                      .accumulation_steps = 2,
                      .dtype = DType::kBF16,
                      .master = MasterFormat::kSplit,
                      .device = DeviceKind::kGpu,
                      .stored_gradients = stored,
                      .host = share};
      const std::unique_ptr<TrainableModel> model = tiny_model(s);
      const OptimizerGroups groups = make_groups(model->params(), optimizer);
      const auto play = [&](Arena& arena) {
        SingleCommunicator alone;
        HostedState* state = nullptr;
        TrainEngine engine(arena, *model, groups, engine_options(s, 2),
                           {alone, host_stores(groups, &state)});
        InitSource source(3, 0.3);
        engine.load(source);
        arena.begin_phase("step");
        for (int step = 1; step <= 2; ++step) engine.step(batches_of(0, 1, 2, -1), step, 1e-3);
        return state->traffic() + engine.staged_traffic();
      };
      const auto plan = Arena::make_planning(DeviceKind::kGpu);
      const HostTraffic planned = play(*plan);
      const auto arena = Arena::make_gpu(plan->extent_bytes(), plan->pinned().extent_bytes());
      const HostTraffic moved = play(*arena);
      EXPECT_EQ(plan->peaks(), arena->peaks()) << optimizer;
      EXPECT_EQ(plan->pinned().peaks(), arena->pinned().peaks()) << optimizer;
      EXPECT_EQ(planned.to_gpu, moved.to_gpu) << optimizer << " " << share;
      EXPECT_EQ(planned.to_host, moved.to_host) << optimizer << " " << share;
      EXPECT_GT(moved.to_gpu, 0);
      EXPECT_EQ(arena->peak().by_tag[static_cast<std::size_t>(MemoryTag::kOptimizer)], 0);
      EXPECT_GT(arena->pinned().peak().by_tag[static_cast<std::size_t>(MemoryTag::kOptimizer)], 0);
    }
  }
}

}  // namespace
}  // namespace thimble
