// Whole models that decode with compressed caches: at full budget as with a dense one, several
// sequences as one by one, and a plan that knows all memory.
#include <gtest/gtest.h>

#include <cmath>

#include "compress/compressed_cache.h"
#include "models/decoder.h"
#include "models/rope_table.h"
#include "models/weight_sources.h"
#include "train/compressor_parts.h"
#include "train/weight_loading.h"

namespace thimble {
namespace {

ModelConfig tiny_config() {
  ModelConfig c;
  c.hidden_size = 64;
  c.intermediate_size = 96;
  c.num_layers = 3;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = 16;
  c.vocab_size = 131;
  c.max_positions = 1000;
  c.windows = {0, 70, 0};
  return c;
}

std::vector<std::int32_t> some_text(std::size_t tokens, std::uint64_t seed) {
  std::vector<std::int32_t> ids;
  for (std::uint64_t i = 0; i < tokens; ++i)
    ids.push_back(static_cast<std::int32_t>(mix64(i, seed) % 131));
  return ids;
}

void expect_same_logits(const std::vector<float>& got, const std::vector<float>& want,
                        float tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  float worst = 0, scale = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    scale = std::max(scale, std::abs(want[i]));
    if (!(std::abs(got[i] - want[i]) <= worst)) worst = std::abs(got[i] - want[i]);
  }
  EXPECT_TRUE(worst <= tolerance * scale) << what << ": " << worst / scale;
}

class CompressedDecoding : public testing::Test {
 protected:
  CompressedDecoding() {
    InitSource source(3, 0.2);
    load_weights(*arena_, model_, store_, source);
    table_ = make_rope_table(*arena_, model_.config(), 1000);
  }
  std::unique_ptr<CompressedKvCache> cache(const KvOptions& options, std::int64_t capacity) {
    return std::make_unique<CompressedKvCache>(
        *arena_, make_kv_plan(options, kv_shape_of(model_.config(), DType::kF32, capacity)));
  }
  Decoder decoder(KvCache& cache, std::int64_t chunk) {
    return Decoder(*arena_, model_, store_, DType::kF32,
                   {.kv = cache, .rope_table = table_, .prompt_chunk = chunk});
  }

  std::unique_ptr<Arena> arena_ = Arena::make_cpu(256 * kMiB);
  Transformer model_{tiny_config()};
  ResidentParamStore store_{*arena_, model_.params(), DType::kF32, false};
  Tensor table_;
};

TEST_F(CompressedDecoding, AtFullBudgetLogitsAreThoseOfADenseCache) {
  const std::vector<std::int32_t> ids = some_text(300, 5);
  Decoder dense(*arena_, model_, store_, DType::kF32, 300);
  const std::vector<float> prompt = dense.feed(std::span(ids).first(260));
  std::vector<std::vector<float>> want;
  for (std::size_t i = 260; i < 300; ++i) want.push_back(dense.feed(std::span(ids).subspan(i, 1)));
  for (std::size_t m = 0; m < kv_method_names().size(); ++m) {
    const auto kv = cache({.method = static_cast<KvMethod>(m)}, 300);
    Decoder d = decoder(*kv, 512);
    // The prompt in one piece takes the kernels of a dense cache.
    EXPECT_EQ(d.feed(std::span(ids).first(260)), prompt) << kv_method_names()[m];
    for (std::size_t i = 260; i < 300; ++i)
      expect_same_logits(d.feed(std::span(ids).subspan(i, 1)), want[i - 260], 1e-4f,
                         kv_method_names()[m]);
    const auto again = cache({.method = static_cast<KvMethod>(m)}, 300);
    expect_same_logits(decoder(*again, 37).feed(ids), want.back(), 1e-4f, "in chunks of 37");
  }
}

TEST_F(CompressedDecoding, SeveralSequencesOfAnyLengthsDecodeAsOneByOne) {
  const std::vector<std::size_t> lengths{1, 150, 64, 33};
  std::vector<std::unique_ptr<KvCache>> batch, alone;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    for (auto* caches : {&batch, &alone}) {
      if (i == 0) {
        caches->push_back(
            std::make_unique<DenseKvCache>(*arena_, model_.config(), DType::kF32, 200));
      } else {
        caches->push_back(
            cache({.method = KvMethod::kSnapKv, .budget = 60, .window = 32, .bits = 8}, 200));
      }
      decoder(*caches->back(), 40).feed(some_text(lengths[i], i));
    }
  }
  for (std::uint64_t step = 0; step < 20; ++step) {
    std::vector<NextToken> tokens;
    for (std::size_t i = 0; i < batch.size(); ++i)
      tokens.push_back({batch[i].get(), some_text(1, step * 10 + i)[0]});
    Context ctx{.store = store_, .arena = *arena_, .dtype = DType::kF32};
    const auto got = decode_batch(ctx, model_, table_, tokens);
    for (std::size_t i = 0; i < alone.size(); ++i) {
      const auto want = decoder(*alone[i], 40).feed(std::span(&tokens[i].token, 1));
      expect_same_logits(got[i], want, 1e-5f, "sequence " + std::to_string(i));
    }
  }
}

TEST_F(CompressedDecoding, APlanKnowsAllThatARunTakes) {
  for (std::size_t m = 0; m < kv_method_names().size(); ++m) {
    KvOptions o{.method = static_cast<KvMethod>(m), .budget = 0.25, .window = 32, .bits = 4};
    if (o.method == KvMethod::kFull) o.budget = 1;
    if (o.method == KvMethod::kSnapKv) o.allocation = KvAllocation::kAda;
    if (o.method == KvMethod::kH2o) {
      o.rope_stage = RopeStage::kPre;
      o.positions = PositionPolicy::kSlots;
    }
    const auto decode = [&](Arena& arena) {
      ResidentParamStore store(arena, model_.params(), DType::kF32, false);
      if (!arena.device().planning) {
        InitSource source(3, 0.2);
        load_weights(arena, model_, store, source);
      }
      const Tensor table = make_rope_table(arena, model_.config(), 400);
      CompressedKvCache kv(arena, make_kv_plan(o, kv_shape_of(model_.config(), DType::kF32, 400)));
      arena.begin_phase("decode");
      Decoder d(arena, model_, store, DType::kF32,
                {.kv = kv, .rope_table = table, .prompt_chunk = 128});
      d.feed(some_text(330, 1));
      for (int i = 0; i < 70; ++i) d.feed(some_text(1, 2));
      for (const MemoryPeak& peak : arena.peaks()) {
        if (peak.phase == "decode") return peak.total_bytes;
      }
      return std::int64_t{0};
    };
    const auto planning = Arena::make_planning();
    const auto real = Arena::make_cpu(64 * kMiB);
    const std::int64_t planned = decode(*planning), used = decode(*real);
    EXPECT_LE(used, planned) << kv_method_names()[m];
    EXPECT_GE(used, planned * 2 / 3) << kv_method_names()[m];
  }
}

}  // namespace
}  // namespace thimble
