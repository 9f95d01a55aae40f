// Decoding one token at a time against one forward pass over the whole text, at a long context.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "core/base/random.h"
#include "core/nn/param_store.h"
#include "models/decoder.h"
#include "models/rope_table.h"
#include "models/transformer.h"
#include "models/weight_sources.h"
#include "train/train_engine.h"
#include "train/weight_loading.h"

namespace thimble {
namespace {

ModelConfig tiny_config(std::int64_t positions, bool windowed) {
  ModelConfig c;
  c.hidden_size = 64;
  c.intermediate_size = 96;
  c.num_layers = 2;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = 16;
  c.vocab_size = 131;
  c.max_positions = positions;
  c.windows = {0, windowed ? 100 : 0};
  return c;
}

std::vector<std::int32_t> some_text(std::size_t tokens) {
  std::vector<std::int32_t> ids;
  for (std::uint64_t i = 0; i < tokens; ++i)
    ids.push_back(static_cast<std::int32_t>(mix64(i, 5) % 131));
  return ids;
}

// Logits of every position from one pass without a cache.
std::vector<float> forced_logits(Arena& arena, const Transformer& model, ParamStore& store,
                                 DType dtype, const std::vector<std::int32_t>& ids) {
  Batch batch{.sequences = 1, .seq_len = static_cast<std::int64_t>(ids.size()), .tokens = ids};
  batch.targets.assign(ids.size(), 0);
  batch.weights.assign(ids.size(), 0);
  batch.segment_start.assign(ids.size(), 0);
  batch.positions.resize(ids.size());
  std::iota(batch.positions.begin(), batch.positions.end(), 0);
  const BatchTensors t = upload(arena, batch);
  Context ctx{.store = store, .arena = arena, .dtype = dtype};
  const Var hidden =
      model.hidden(ctx, t.ids, t.order,
                   {.sequences = 1,
                    .positions = t.positions,
                    .segment_start = t.segment_start,
                    .rope_table = make_rope_table(arena, model.config(), batch.seq_len)});
  const Tensor logits = model.logits(ctx, hidden.value);
  return {logits.data<float>(), logits.data<float>() + logits.numel()};
}

class DecodeTest : public testing::TestWithParam<DType> {};

TEST_P(DecodeTest, OneByOneEqualsTeacherForcingAt8192Positions) {
  constexpr std::size_t kText = 8192,
                        kOneByOne = 600;  // the last ones cross tile and prompt-chunk boundaries
  for (const bool windowed : {false, true}) {
    const auto arena = Arena::make_cpu(512 * kMiB);
    const Transformer model(tiny_config(kText, windowed));
    ResidentParamStore store(*arena, model.params(), GetParam(), false);
    InitSource source(3, 0.2);
    load_weights(*arena, model, store, source);
    const std::vector<std::int32_t> ids = some_text(kText);
    const std::vector<float> want = forced_logits(*arena, model, store, GetParam(), ids);
    const float scale = std::abs(*std::max_element(
        want.begin(), want.end(), [](float a, float b) { return std::abs(a) < std::abs(b); }));
    Decoder decoder(*arena, model, store, GetParam(), kText);
    decoder.feed(std::span(ids).first(kText - kOneByOne));
    float worst = 0;
    for (std::size_t i = kText - kOneByOne; i < kText; ++i) {
      const std::vector<float> got = decoder.feed(std::span(ids).subspan(i, 1));
      for (std::size_t j = 0; j < got.size(); ++j) {
        const float d = std::abs(got[j] - want[i * got.size() + j]);
        if (!(d <= worst)) worst = d;
      }
    }
    EXPECT_TRUE(worst <= (GetParam() == DType::kF32 ? 1e-5f : 2e-2f) * scale) << worst / scale;
  }
}

TEST_P(DecodeTest, EveryPromptLengthGivesTheSameNextToken) {
  const auto arena = Arena::make_cpu(256 * kMiB);
  const Transformer model(tiny_config(1100, true));
  ResidentParamStore store(*arena, model.params(), GetParam(), false);
  InitSource source(3, 0.2);
  load_weights(*arena, model, store, source);
  const std::vector<std::int32_t> ids = some_text(1100);
  const std::vector<float> want = forced_logits(*arena, model, store, GetParam(), ids);
  for (const std::size_t prompt : {1u, 2u, 127u, 128u, 129u, 511u, 512u, 513u, 1025u, 1100u}) {
    Decoder decoder(*arena, model, store, GetParam(), 1100);
    const std::vector<float> got = decoder.feed(std::span(ids).first(prompt));
    float worst = 0, scale = 0;
    for (std::size_t j = 0; j < got.size(); ++j) {
      const float w = want[(prompt - 1) * got.size() + j], d = std::abs(got[j] - w);
      scale = std::max(scale, std::abs(w));
      if (!(d <= worst)) worst = d;
    }
    EXPECT_TRUE(worst <= (GetParam() == DType::kF32 ? 1e-5f : 2e-2f) * scale)
        << prompt << ": " << worst / scale;
    EXPECT_EQ(decoder.length(), static_cast<std::int64_t>(prompt));
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, DecodeTest, testing::Values(DType::kF32, DType::kBF16));

}  // namespace
}  // namespace thimble
