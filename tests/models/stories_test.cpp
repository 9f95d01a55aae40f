// A real pretrained model: converted, continued, evaluated, fine-tuned, exported, reloaded.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

#include "core/io/file.h"
#include "data/tokenizer.h"
#include "launcher/trainer/loaded_model.h"
#include "models/decoder.h"
#include "models/hf_export.h"
#include "models/transformer.h"
#include "models/weight_sources.h"
#include "optim/adamw.h"
#include "train/train_engine.h"
#include "train/weight_loading.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

fs::path shared_data() {
  const char* folder = std::getenv("THIMBLE_SHARED_DATA");
  return folder != nullptr ? folder : "../shared/data";
}

const char* kStart =
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, "
    "let's go to the park.\" "
    "Lily was sad and didn't know what to do. She said, \"I want to play with your ball, but I "
    "can't find it.\"\nLily "
    "was sad and didn't know what to do. She said, \"I'm sorry, Lily. I didn't know what to "
    "do.\"\nLily didn't want to "
    "help her mom, so";

std::vector<std::int32_t> greedy(Decoder& decoder, std::vector<std::int32_t> ids,
                                 std::size_t count) {
  std::vector<float> logits = decoder.feed(ids);
  while (ids.size() < count) {
    ids.push_back(sample_token(logits, {}, 0, {}));
    logits = decoder.feed(std::span(ids).last(1));
  }
  return ids;
}

TEST(Stories260K, ContinuesAsLlama2cDoes) {
  const auto arena = Arena::make_cpu(256 * kMiB);
  Llama2cSource source(shared_data() / "stories260K/stories260K.bin");
  const Transformer model(source.config());
  ResidentParamStore store(*arena, model.params(), DType::kF32, false);
  load_weights(*arena, model, store, source);
  const auto tokenizer = load_tokenizer(shared_data() / "stories260K/tok512.bin");
  Decoder decoder(*arena, model, store, DType::kF32, 256);
  const std::vector<std::int32_t> ids = greedy(decoder, {1}, 200);  // from BOS alone
  EXPECT_EQ(tokenizer->decode(ids).substr(0, std::string(kStart).size()), kStart);
}

TEST(Stories260K, DecodingOneByOneEqualsTeacherForcing) {
  const auto arena = Arena::make_cpu(256 * kMiB);
  Llama2cSource source(shared_data() / "stories260K/stories260K.bin");
  const Transformer model(source.config());
  ResidentParamStore store(*arena, model.params(), DType::kF32, false);
  load_weights(*arena, model, store, source);
  Decoder one(*arena, model, store, DType::kF32, 300),
      whole(*arena, model, store, DType::kF32, 300);
  const std::vector<std::int32_t> ids = greedy(one, {1}, 299);
  const std::vector<float> a = one.feed(std::vector<std::int32_t>{7});
  std::vector<std::int32_t> all = ids;
  all.push_back(7);
  const std::vector<float> b = whole.feed(all);
  float scale = 0, error = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    scale = std::max(scale, std::abs(b[i]));
    if (!(std::abs(a[i] - b[i]) <= error)) error = std::abs(a[i] - b[i]);
  }
  EXPECT_TRUE(error <= 1e-5f * scale) << error / scale;
}

TEST(Stories260K, FineTunesExportsAndReloadsToTheSameLogits) {
  const auto arena = Arena::make_cpu(512 * kMiB);
  Llama2cSource source(shared_data() / "stories260K/stories260K.bin");
  const Transformer model(source.config());
  const AdamW optimizer(AdamOptions{});
  TrainEngine engine(*arena, model, optimizer,
                     {.dtype = DType::kF32, .grad_dtype = DType::kF32, .seq_len = 128});
  engine.load(source);
  const auto tokenizer = load_tokenizer(shared_data() / "stories260K/tok512.bin");
  const std::vector<std::int32_t> ids = tokenizer->encode(
      read_text_file(shared_data() / "text/tinyshakespeare.txt", 1 << 24).substr(0, 60'000));
  Batch batch{.sequences = 8, .seq_len = 128};
  for (std::size_t i = 0; i < 8 * 128; ++i) {
    batch.tokens.push_back(ids[i]);
    batch.targets.push_back(ids[i + 1]);
    batch.weights.push_back(1);
    batch.segment_start.push_back(0);
    batch.positions.push_back(static_cast<std::int32_t>(i % 128));
  }
  const double first = engine.step(std::span(&batch, 1), 1, 1e-3).loss;
  double last = first;
  for (int step = 2; step <= 20; ++step) last = engine.step(std::span(&batch, 1), step, 1e-3).loss;
  EXPECT_LT(last, first - 0.3);
  const fs::path directory =
      fs::temp_directory_path() / ("thimble-stories-" + std::to_string(::getpid()));
  export_hf(*arena, model, engine.store(),
            {.directory = directory,
             .dtype = DType::kF32,
             .files_to_copy = {shared_data() / "stories260K/tok512.bin"}});
  const LoadedModel again = load_model({directory, {}}, "auto", [](LoadedModel& planned) {
    Decoder decoder(*planned.arena, *planned.model, *planned.store, planned.dtype, 16);
    static_cast<void>(decoder.feed(std::vector<std::int32_t>(16)));
  });
  Decoder ours(*arena, model, engine.store(), DType::kF32, 16);
  Decoder theirs(*again.arena, *again.model, *again.store, DType::kF32, 16);
  const std::vector<std::int32_t> prompt{1, 5, 77, 300, 4};
  EXPECT_EQ(ours.feed(prompt), theirs.feed(prompt));
  fs::remove_all(directory);
}

}  // namespace
}  // namespace thimble
