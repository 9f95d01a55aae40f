// A pretrained model's greedy text with compressed caches.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "compress/compressed_cache.h"
#include "models/decoder.h"
#include "models/rope_table.h"
#include "models/weight_sources.h"
#include "train/compressor_parts.h"
#include "train/weight_loading.h"

namespace thimble {
namespace {

std::filesystem::path shared_stories() {
  const char* folder = std::getenv("THIMBLE_SHARED_DATA");
  return std::filesystem::path(folder != nullptr ? folder : "../shared/data") /
         "stories260K/stories260K.bin";
}

std::vector<std::int32_t> greedy_text(Decoder& decoder, std::size_t count) {
  std::vector<std::int32_t> ids{1};
  std::vector<float> logits = decoder.feed(ids);
  while (ids.size() < count) {
    ids.push_back(sample_token(logits, {}, 0, {}));
    logits = decoder.feed(std::span(ids).last(1));
  }
  return ids;
}

TEST(CompressedStories, GreedyTextIsUnchanged) {
  const auto arena = Arena::make_cpu(64 * kMiB);
  Llama2cSource source(shared_stories());
  const Transformer model(source.config());
  ResidentParamStore store(*arena, model.params(), DType::kF32, false);
  load_weights(*arena, model, store, source);
  const Tensor table = make_rope_table(*arena, model.config(), 400);
  Decoder dense(*arena, model, store, DType::kF32, 200);
  const std::vector<std::int32_t> want = greedy_text(dense, 200);
  const auto with = [&](const KvOptions& options) {
    CompressedKvCache kv(*arena,
                         make_kv_plan(options, kv_shape_of(model.config(), DType::kF32, 400)));
    Decoder decoder(*arena, model, store, DType::kF32, {.kv = kv, .rope_table = table});
    return greedy_text(decoder, 200);
  };
  for (std::size_t m = 0; m < kv_method_names().size(); ++m)
    // With room for all of it, but not for all that might come: positions are scored.
    EXPECT_EQ(with({.method = static_cast<KvMethod>(m), .budget = 250}), want)
        << kv_method_names()[m];
  EXPECT_EQ(with({.rope_stage = RopeStage::kPre}), want);
  EXPECT_EQ(with({.bits = 8}), want);
  EXPECT_NE(with({.method = KvMethod::kWindow, .budget = 20}), want);
}

}  // namespace
}  // namespace thimble
