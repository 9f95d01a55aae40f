// Time of one decoded token of a 60M model in bf16, by the number of positions before it.
#include <benchmark/benchmark.h>

#include "core/nn/param_store.h"
#include "models/decoder.h"
#include "models/weight_sources.h"
#include "train/weight_loading.h"
#include "train/train_engine.h"

namespace thimble {
namespace {

constexpr std::int64_t kLongest = 32768, kMostTokens = 256;

void decode(benchmark::State& state) {
  ModelConfig config = *named_model_config("60m");
  config.max_positions = kLongest + kMostTokens;
  const Transformer model(config);
  const auto arena = Arena::make_cpu(std::int64_t{6} << 30);
  ResidentParamStore store(*arena, model.params(), DType::kBF16, true);
  InitSource source(1, 0.02);
  load_weights(*arena, model, store, source);
  Decoder decoder(*arena, model, store, DType::kBF16, config.max_positions);
  decoder.feed(std::vector<std::int32_t>(static_cast<std::size_t>(state.range(0)), 7));
  const std::vector<std::int32_t> token{5};
  for (auto _ : state) benchmark::DoNotOptimize(decoder.feed(token));
}
BENCHMARK(decode)
    ->Arg(16)
    ->Arg(1024)
    ->Arg(8192)
    ->Arg(kLongest)
    ->Iterations(8)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace thimble
