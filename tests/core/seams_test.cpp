// Every seam of core against a hostile implementation of it, on a small transformer and on a model
// that is none.
#include <cstring>
#include <map>
#include <numeric>

#include "core/nn/resident_grad_sink.h"
#include "models/transformer.h"
#include "models/weight_sources.h"
#include "optim/adamw.h"
#include "tests/core/expect_close.h"
#include "tests/parallel/odd_model.h"
#include "train/train_engine.h"
#include "train/weight_loading.h"

namespace thimble {
namespace {

ModelConfig small_config(bool tied) {
  ModelConfig c;
  c.hidden_size = 24;
  c.intermediate_size = 40;
  c.num_layers = 3;
  c.num_heads = 3;
  c.num_kv_heads = 1;
  c.head_dim = 8;
  c.vocab_size = 61;
  c.max_positions = 64;
  c.tied_lm_head = tied;
  c.qkv_bias = c.qk_norm = true;
  c.windows = {0, 5, 0};
  return c;
}

Batch small_batch() {
  Batch b{.sequences = 2, .seq_len = 13};
  for (int i = 0; i < 26; ++i) {
    const int t = i % 13, start = t >= 6 ? 6 : 0;
    b.tokens.push_back(i * 17 % 61);
    b.targets.push_back((i * 17 + 17) % 61);
    b.weights.push_back(i % 5 == 0 ? 0.0f : 1.0f);
    b.segment_start.push_back(start);
    b.positions.push_back(t - start);
  }
  return b;
}

// Gives out copies while a block is pinned and fills them with NaN when the last pin goes.
class PoisoningStore final : public ParamStore {
 public:
  PoisoningStore(Arena& arena, const TrainableModel& model, ResidentParamStore& truth)
      : arena_(arena), truth_(truth), pins_(model.block_params().size()) {}
  const ParamTable& params() const override { return truth_.params(); }
  void pin_block(BlockId block) override { ++pins_.at(static_cast<std::size_t>(block)); }
  void unpin_block(BlockId block) override {
    ASSERT_GT(pins_.at(static_cast<std::size_t>(block)), 0);
    --pins_[static_cast<std::size_t>(block)];
    if (std::accumulate(pins_.begin(), pins_.end(), 0) > 0) return;
    for (auto& [id, copy] : copies_)
      std::memset(copy.raw(), 0xFF, static_cast<std::size_t>(copy.nbytes()));
    copies_.clear();
  }
  Tensor view(ParamId id) override {
    EXPECT_GT(std::accumulate(pins_.begin(), pins_.end(), 0), 0) << "a view without a pin";
    Tensor& copy = copies_[id];
    if (!copy.defined()) {
      const Tensor w = truth_.view(id);
      copy = Tensor::empty(arena_, MemoryTag::kWeights, w.dtype(), w.shape());
      ops::copy(copy, w);
    }
    return copy;
  }
  Tensor prepacked(ParamId, const MatmulSpec&) override { return {}; }
  std::int64_t version(ParamId id) const override { return truth_.version(id); }
  int open_pins() const { return std::accumulate(pins_.begin(), pins_.end(), 0); }

 private:
  Arena& arena_;
  ResidentParamStore& truth_;
  std::vector<int> pins_;
  std::map<ParamId, Tensor> copies_;
};

// Counts calls and checks that a parameter is completed once, after its last contribution.
class CountingSink final : public GradSink {
 public:
  explicit CountingSink(GradSink& inner) : inner_(inner) {}
  bool wants(ParamId id) const override { return inner_.wants(id); }
  GradTarget accumulate_into(ParamId id) override {
    EXPECT_EQ(completed[id], 0) << "a contribution after completion";
    EXPECT_TRUE(inner_.wants(id)) << "a contribution to a frozen parameter";
    ++contributions[id];
    return inner_.accumulate_into(id);
  }
  void complete(ParamId id) override { ++completed[id]; }
  std::map<ParamId, int> contributions, completed;

 private:
  GradSink& inner_;
};

// Moves saved tensors to memory of its own and returns fresh copies.
class MovingPolicy final : public SavePolicy {
 public:
  explicit MovingPolicy(Arena& arena) : arena_(arena) {}
  std::shared_ptr<SavedTensor> save(const Tensor& tensor) override {
    struct Moved final : SavedTensor {
      Arena* arena;
      Tensor form;
      std::vector<char> bytes;
      Tensor get() override {
        const Tensor t = Tensor::empty(*arena, MemoryTag::kActivations, form.dtype(), form.shape());
        std::memcpy(t.raw(), bytes.data(), bytes.size());
        return t;
      }
    };
    auto moved = std::make_shared<Moved>();
    moved->arena = &arena_;
    moved->form = Tensor::wrap(nullptr, tensor.dtype(), tensor.shape());
    const auto* from = static_cast<const char*>(tensor.raw());
    moved->bytes.assign(from, from + tensor.nbytes());
    return moved;
  }

 private:
  Arena& arena_;
};

struct Result {
  std::vector<double> losses;
  std::map<std::string, std::vector<double>> grads;
  bool operator==(const Result&) const = default;
};

struct Variant {
  Recompute recompute = Recompute::kNone;
  bool hostile_store = false, moving = false;
};

Result run_model(const TrainableModel& model, DType dtype, const Variant& v) {
  const auto arena = Arena::make_cpu(1 << 26);
  ResidentParamStore truth(*arena, model.params(), dtype, true);
  InitSource source(3, 0.3);
  load_weights(*arena, model, truth, source);
  arena->set_poison(true);
  Result result;
  {
    PoisoningStore hostile(*arena, model, truth);
    ParamStore& store = v.hostile_store ? static_cast<ParamStore&>(hostile) : truth;
    ResidentGradSink grads(
        *arena, model.params(),
        std::vector<DType>(static_cast<std::size_t>(model.params().size()), DType::kF32));
    CountingSink sink(grads);
    SavePolicy keep;
    MovingPolicy moving(*arena);
    Tape tape(*arena, sink, v.moving ? static_cast<SavePolicy&>(moving) : keep, v.recompute);
    Context ctx{.store = store, .arena = *arena, .dtype = dtype, .tape = &tape};
    const BatchTensors batch = upload(*arena, small_batch());
    const std::vector<Tensor> tables = model.make_tables(*arena, 13);
    result.losses = values_of(model.loss(ctx, batch, tables, 1.0f / 20));
    tape.backward();
    EXPECT_EQ(hostile.open_pins(), 0);
    for (const ParamId id : model.params().ids()) {
      const ParamInfo& info = model.params().info(id);
      EXPECT_EQ(sink.completed[id], info.trainable ? 1 : 0) << info.name;
      if (info.trainable) result.grads[info.name] = values_of(grads.grad(id));
    }
  }
  return result;
}

Result run(DType dtype, bool tied, const Variant& v, bool freeze_norms = false) {
  Transformer model(small_config(tied));
  for (const ParamId id : model.params().ids()) {
    if (freeze_norms && model.params().info(id).role == ParamRole::kNorm)
      model.params().set_trainable(id, false);
  }
  return run_model(model, dtype, v);
}

void expect_no_bit_changed(const TrainableModel& model, DType dtype) {
  const Result plain = run_model(model, dtype, {});
  for (const auto& [name, grad] : plain.grads) {
    for (const double g : grad) ASSERT_TRUE(std::isfinite(g)) << name;
  }
  // The hostile store has no prepacked weights, which may round differently: it is compared with
  // itself.
  const Result unpacked = run_model(model, dtype, {.hostile_store = true});
  for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
    for (const bool moving : {false, true}) {
      EXPECT_EQ(plain, run_model(model, dtype, {recompute, false, moving}));
      EXPECT_EQ(unpacked, run_model(model, dtype, {recompute, true, moving}));
    }
  }
  for (const auto& [name, grad] : plain.grads) {
    expect_close(unpacked.grads.at(name), grad, dtype == DType::kF32 ? 1e-4 : 5e-2, name.c_str());
  }
}

class Seams : public testing::TestWithParam<std::tuple<DType, bool>> {};

TEST_P(Seams, HostileImplementationsChangeNoBit) {
  const auto [dtype, tied] = GetParam();
  expect_no_bit_changed(Transformer(small_config(tied)), dtype);
  expect_no_bit_changed(OddModel(tied), dtype);
}

TEST_P(Seams, FrozenParametersCostNothingAndChangeNoOther) {
  const auto [dtype, tied] = GetParam();
  const Result all = run(dtype, tied, {}), frozen = run(dtype, tied, {}, true);
  EXPECT_LT(frozen.grads.size(), all.grads.size());
  for (const auto& [name, grad] : frozen.grads) EXPECT_EQ(grad, all.grads.at(name)) << name;
}

TEST_P(Seams, PlanEqualsMeasurementAndNothingLeaks) {
  const auto [dtype, tied] = GetParam();
  for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
    for (const std::size_t passes : {1u, 4u}) {
      const Transformer model(small_config(tied));
      const AdamW optimizer(AdamOptions{});
      const EngineOptions options{.dtype = dtype,
                                  .grad_dtype = dtype,
                                  .recompute = recompute,
                                  .accumulates = passes > 1,
                                  .seq_len = 13};
      const auto play = [&](Arena& arena) {
        arena.begin_phase("load");
        TrainEngine engine(arena, model, optimizer, options);
        InitSource source(3, 0.02);
        engine.load(source);
        arena.begin_phase("step");
        const std::vector<Batch> batches(passes, small_batch());
        engine.step(batches, 1, 1e-3);
        const std::int64_t live = arena.live_bytes();
        for (int step = 2; step < 5; ++step) engine.step(batches, step, 1e-3);
        EXPECT_EQ(arena.live_bytes(), live);
        engine.evaluate(batches[0]);
      };
      const auto plan = Arena::make_planning();
      play(*plan);
      const auto arena = Arena::make_cpu(plan->extent_bytes());
      play(*arena);
      EXPECT_EQ(plan->peaks(), arena->peaks());
      EXPECT_EQ(arena->live_bytes(), 0);
    }
  }
}

TEST(Documents, ChangingOneChangesNothingInAnother) {
  const auto logits_of = [](std::int32_t first_token) {
    const auto arena = Arena::make_cpu(1 << 26);
    const Transformer model(small_config(false));
    ResidentParamStore store(*arena, model.params(), DType::kF32, false);
    InitSource source(3, 0.3);
    load_weights(*arena, model, store, source);
    Batch batch = small_batch();
    batch.tokens[0] = first_token;
    Context ctx{.store = store, .arena = *arena};
    const BatchTensors t = upload(*arena, batch);
    return values_of(model.loss(ctx, t, model.make_tables(*arena, 13), 1.0f));
  };
  const std::vector<double> a = logits_of(5), b = logits_of(50);
  EXPECT_NE(std::vector(a.begin(), a.begin() + 6), std::vector(b.begin(), b.begin() + 6));
  EXPECT_EQ(std::vector(a.begin() + 6, a.end()), std::vector(b.begin() + 6, b.end()));
}

TEST(Accumulation, EightRowsAtOnceOrOneByOne) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const auto grads_of = [&](bool together) {
      const auto arena = Arena::make_cpu(1 << 27);
      const Transformer model(small_config(false));
      const AdamW optimizer(AdamOptions{});
      TrainEngine engine(
          *arena, model, optimizer,
          {.dtype = dtype, .grad_dtype = DType::kF32, .accumulates = true, .seq_len = 13});
      InitSource source(3, 0.3);
      engine.load(source);
      Batch all{.sequences = 0, .seq_len = 13};
      std::vector<Batch> single;
      for (int r = 0; r < 8; ++r) {  // ragged: row r is trained on r + 1 positions
        Batch row = small_batch();
        row.sequences = 1;
        for (auto* v : {&row.tokens, &row.targets, &row.segment_start, &row.positions})
          v->resize(13);
        row.weights.resize(13);
        for (std::size_t t = 0; t < 13; ++t) {
          row.tokens[t] = (row.tokens[t] + 7 * r) % 61;
          row.weights[t] = static_cast<int>(t) <= r ? 1.0f : 0.0f;
        }
        single.push_back(row);
        ++all.sequences;
        all.tokens.insert(all.tokens.end(), row.tokens.begin(), row.tokens.end());
        all.targets.insert(all.targets.end(), row.targets.begin(), row.targets.end());
        all.weights.insert(all.weights.end(), row.weights.begin(), row.weights.end());
        all.segment_start.insert(all.segment_start.end(), row.segment_start.begin(),
                                 row.segment_start.end());
        all.positions.insert(all.positions.end(), row.positions.begin(), row.positions.end());
      }
      const StepResult r =
          together ? engine.accumulate(std::span(&all, 1)) : engine.accumulate(single);
      std::vector<std::vector<double>> out{{r.loss}};
      for (const ParamId id : model.params().ids())
        out.push_back(values_of(engine.grads().grad(id)));
      return out;
    };
    const auto together = grads_of(true), apart = grads_of(false);
    for (std::size_t i = 0; i < together.size(); ++i) {
      double error = 0, norm = 0;
      for (std::size_t j = 0; j < together[i].size(); ++j) {
        error += std::pow(together[i][j] - apart[i][j], 2);
        norm += std::pow(together[i][j], 2);
      }
      EXPECT_TRUE(std::sqrt(error) <= (dtype == DType::kF32 ? 1e-5 : 1e-2) * std::sqrt(norm)) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Seams,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Bool()));

}  // namespace
}  // namespace thimble
