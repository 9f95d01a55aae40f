// Taps on the attention of a layer: one that changes nothing gives the same bits, one that changes
// something does what it says, and each is called where it says.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <numeric>

#include "core/nn/batch_tensors.h"
#include "core/nn/resident_grad_sink.h"
#include "core/ops/rope.h"
#include "models/kv_cache.h"
#include "models/rope_table.h"
#include "models/transformer.h"
#include "models/weight_sources.h"
#include "tests/core/expect_close.h"

namespace thimble {
namespace {

constexpr std::int64_t kTokens = 13;

ModelConfig tiny_config() {
  ModelConfig c;
  c.hidden_size = 16;
  c.intermediate_size = 24;
  c.num_layers = 2;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = 4;
  c.vocab_size = 31;
  c.max_positions = 64;
  c.windows = {0, 0};
  return c;
}

class LayerTaps : public testing::TestWithParam<DType> {
 protected:
  LayerTaps() {
    InitSource source(3, 0.2);
    for (const ParamId id : model_.params().ids()) {
      const ParamInfo& info = model_.params().info(id);
      const Tensor values =
          Tensor::empty(*arena_, MemoryTag::kWorkspace, DType::kF32, info.storage_shape());
      source.read(info, {0, info.storage_shape()[0]}, values);
      ops::cast(store_.writable(id), values);
      store_.changed(id);
    }
    Batch batch{.sequences = 1, .seq_len = kTokens};
    batch.positions.resize(kTokens);
    std::iota(batch.positions.begin(), batch.positions.end(), 0);
    for (int i = 0; i < kTokens; ++i) batch.tokens.push_back(i * 7 % 31);
    batch.targets.assign(kTokens, 0);
    batch.weights.assign(kTokens, 1);
    batch.segment_start.assign(kTokens, 0);
    batch_ = upload(*arena_, batch);
    rope_table_ = make_rope_table(*arena_, model_.config(), kTokens);
  }

  AttentionContext attention(LayerTap* tap) const {
    return {.sequences = 1,
            .positions = batch_.positions,
            .segment_start = batch_.segment_start,
            .rope_table = rope_table_,
            .tap = tap};
  }
  Tensor hidden(const AttentionContext& attention) {
    Context ctx{.store = store_, .arena = *arena_, .dtype = GetParam()};
    return model_.hidden(ctx, batch_.ids, batch_.order, attention).value;
  }

  // The hidden states and the gradients of all parameters, in one list of numbers.
  std::vector<double> forward_and_backward(LayerTap* tap, Recompute recompute) {
    ResidentGradSink sink(*arena_, model_.params(),
                          std::vector<DType>(model_.params().ids().size(), DType::kF32));
    SavePolicy keep;
    Tape tape(*arena_, sink, keep, recompute);
    Context ctx{.store = store_, .arena = *arena_, .dtype = GetParam(), .tape = &tape};
    const Var y = model_.hidden(ctx, batch_.ids, batch_.order, attention(tap));
    std::vector<double> all = values_of(y.value);
    tape.add_grad(y.id, random_tensor(*arena_, GetParam(), y.value.shape(), 5));
    tape.backward();
    for (const ParamId id : model_.params().ids()) {
      if (!sink.grad(id).defined()) continue;  // the LM head
      const std::vector<double> grad = values_of(sink.grad(id));
      all.insert(all.end(), grad.begin(), grad.end());
    }
    return all;
  }

  std::unique_ptr<Arena> arena_ = Arena::make_cpu(1 << 24);
  Transformer model_{tiny_config()};
  ResidentParamStore store_{*arena_, model_.params(), GetParam(), true};
  BatchTensors batch_;
  Tensor rope_table_;
};

void expect_same_bits(const Tensor& got, const Tensor& want, const char* what) {
  ASSERT_EQ(got.shape(), want.shape()) << what;
  EXPECT_EQ(std::memcmp(got.raw(), want.raw(), static_cast<std::size_t>(want.nbytes())), 0) << what;
}

TEST_P(LayerTaps, ATapThatChangesNothingGivesTheSameBits) {
  LayerTap nothing;
  for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
    const std::vector<double> want = forward_and_backward(nullptr, recompute);
    const std::vector<double> got = forward_and_backward(&nothing, recompute);
    EXPECT_GT(want.size(), 1000u);
    expect_close(got, want, 0, "hidden states and gradients");
  }
}

// Copies of everything that flows by.
class Recorder final : public LayerTap {
 public:
  explicit Recorder(Arena& arena) : arena_(arena) {}
  void after_norm(int layer, Var& x) override { take("after_norm", layer, {&x}); }
  void before_rope(int layer, Var& q, Var& k, Var& v) override {
    take("before_rope", layer, {&q, &k, &v});
  }
  void after_rope(int layer, Var& q, Var& k, Var& v) override {
    take("after_rope", layer, {&q, &k, &v});
  }
  void attention_output(int layer, Var& out) override { take("attention_output", layer, {&out}); }

  std::vector<std::string> calls;
  std::map<std::string, std::vector<Tensor>> seen;  // by call

 private:
  void take(const char* name, int layer, std::initializer_list<const Var*> vars) {
    calls.push_back(fmt::format("{} {}", name, layer));
    for (const Var* var : vars) {
      const Tensor copy =
          Tensor::empty(arena_, MemoryTag::kActivations, var->value.dtype(), var->value.shape());
      ops::copy(copy, var->value);
      seen[calls.back()].push_back(copy);
    }
  }
  Arena& arena_;
};

TEST_P(LayerTaps, EachIsCalledWhereItSays) {
  Recorder tap(*arena_);
  hidden(attention(&tap));
  EXPECT_EQ(tap.calls, (std::vector<std::string>{
                           "after_norm 0", "before_rope 0", "after_rope 0", "attention_output 0",
                           "after_norm 1", "before_rope 1", "after_rope 1", "attention_output 1"}));
  const std::vector<Tensor>&before = tap.seen["before_rope 1"], &after = tap.seen["after_rope 1"];
  EXPECT_EQ(tap.seen["after_norm 1"][0].shape(), (Shape{kTokens, 16}));
  EXPECT_EQ(before[0].shape(), (Shape{kTokens, 16}));
  EXPECT_EQ(before[1].shape(), (Shape{kTokens, 8}));
  EXPECT_EQ(tap.seen["attention_output 1"][0].shape(), (Shape{kTokens, 16}));
  for (const std::size_t i : {0u, 1u}) ops::rope(before[i], rope_table_, batch_.positions, false);
  expect_same_bits(after[0], before[0], "queries after RoPE");
  expect_same_bits(after[1], before[1], "keys after RoPE");
  expect_same_bits(after[2], before[2], "values");
}

// Clears one thing in layer 1, and records.
class Eraser final : public LayerTap {
 public:
  enum class What { kNorm, kValues, kKeys, kOutput };
  Eraser(Arena& arena, What what) : recorder(arena), arena_(arena), what_(what) {}
  void after_norm(int layer, Var& x) override {
    if (layer == 1 && what_ == What::kNorm) clear(x);
  }
  void before_rope(int layer, Var& q, Var& k, Var& v) override {
    if (layer == 1 && what_ == What::kValues) clear(v);
    recorder.before_rope(layer, q, k, v);
  }
  void after_rope(int layer, Var& q, Var& k, Var& v) override {
    if (layer == 1 && what_ == What::kKeys) clear(k);
    recorder.after_rope(layer, q, k, v);
  }
  void attention_output(int layer, Var& out) override {
    recorder.attention_output(layer, out);
    if (layer == 1 && what_ == What::kOutput) clear(out);
  }

  Recorder recorder;

 private:
  void clear(Var& x) {
    x.value = Tensor::empty(arena_, MemoryTag::kActivations, x.value.dtype(), x.value.shape());
    ops::zero(x.value);
  }
  Arena& arena_;
  What what_;
};

void expect_zero(const Tensor& x, const char* what) {
  expect_close(values_of(x), std::vector<double>(static_cast<std::size_t>(x.numel())), 0, what);
}

TEST_P(LayerTaps, WhatATapChangesIsUsed) {
  const Tensor plain = hidden(attention(nullptr));
  Eraser norm(*arena_, Eraser::What::kNorm);
  hidden(attention(&norm));
  for (const Tensor& x : norm.recorder.seen["before_rope 1"]) expect_zero(x, "q, k, v of nothing");
  Eraser values(*arena_, Eraser::What::kValues);
  hidden(attention(&values));
  expect_zero(values.recorder.seen["attention_output 1"][0], "attention over values of 0");
  Eraser output(*arena_, Eraser::What::kOutput);
  const Tensor without = hidden(attention(&output));
  EXPECT_NE(values_of(without), values_of(plain));
  // Layer 1 without attention: the same as an output matrix of 0.
  for (const ParamId id : model_.params().ids()) {
    if (model_.params().info(id).name != "model.layers.1.self_attn.o_proj.weight") continue;
    ops::zero(store_.writable(id));
    store_.changed(id);
  }
  expect_same_bits(hidden(attention(nullptr)), without, "hidden states");
}

TEST_P(LayerTaps, AKvStoreTakesWhatATapLeaves) {
  DenseKvCache cache(*arena_, model_.config(), GetParam(), kTokens);
  Eraser keys(*arena_, Eraser::What::kKeys);
  AttentionContext context = attention(&keys);
  context.kv = &cache;
  hidden(context);
  cache.advance(kTokens);
  for (int layer = 0; layer < 2; ++layer) {
    const std::string call = fmt::format("after_rope {}", layer);
    if (layer == 1) expect_zero(cache.keys(layer), "cleared keys");
    expect_same_bits(cache.keys(layer), keys.recorder.seen[call][1], "keys");
    expect_same_bits(cache.values(layer), keys.recorder.seen[call][2], "values");
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, LayerTaps, testing::Values(DType::kF32, DType::kBF16));

}  // namespace
}  // namespace thimble
