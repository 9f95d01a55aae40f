// Everything big is the arena's: what the heap holds does not grow from step to step.
#include <gtest/gtest.h>
#include <malloc.h>

#include "models/transformer.h"
#include "models/weight_sources.h"
#include "optim/adamw.h"
#include "train/train_engine.h"

namespace thimble {
namespace {

TEST(Heap, GrowsByLessThanAMebibyteInTenSteps) {
  ModelConfig c;
  c.hidden_size = 64;
  c.intermediate_size = 160;
  c.num_layers = 2;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = 16;
  c.vocab_size = 500;
  c.max_positions = 128;
  c.windows = {0, 0};
  const Transformer model(c);
  const AdamW optimizer(AdamOptions{});
  Batch batch{.sequences = 4, .seq_len = 128};
  for (int i = 0; i < 512; ++i) {
    batch.tokens.push_back(i * 7 % 500);
    batch.targets.push_back((i * 7 + 7) % 500);
    batch.weights.push_back(1.0f);
    batch.segment_start.push_back(0);
    batch.positions.push_back(i % 128);
  }
  for (const Recompute recompute : {Recompute::kNone, Recompute::kFull}) {
    const auto arena = Arena::make_cpu(1 << 28);
    TrainEngine engine(*arena, model, optimizer, {.recompute = recompute, .seq_len = 128});
    InitSource source(1, 0.02);
    engine.load(source);
    // The first steps make what is kept for the life of the process: prepared matmuls, teams.
    for (int step = 1; step <= 3; ++step) engine.step(std::span(&batch, 1), step, 1e-3);
    const auto before = static_cast<std::int64_t>(::mallinfo2().uordblks);
    for (int step = 4; step <= 13; ++step) engine.step(std::span(&batch, 1), step, 1e-3);
    const auto after = static_cast<std::int64_t>(::mallinfo2().uordblks);
    EXPECT_LT(after - before, kMiB);
  }
}

}  // namespace
}  // namespace thimble
