#include "launcher/commands/bench_batch.h"

#include "core/base/random.h"

namespace thimble {

Batch random_batch(const ModelConfig& config, std::int64_t rows, std::int64_t seq,
                   std::int64_t index) {
  const CounterRandom random(0, RandomPurpose::kSampling, 1, static_cast<std::uint64_t>(index));
  Batch b{.sequences = rows, .seq_len = seq};
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t t = 0; t < seq; ++t) {
      const auto token = [&](std::int64_t at) {
        return static_cast<std::int32_t>(
            random.u32(static_cast<std::uint64_t>(r * (seq + 1) + at)) %
            static_cast<std::uint32_t>(config.vocab_size));
      };
      b.tokens.push_back(token(t));
      b.targets.push_back(token(t + 1));
      b.weights.push_back(1.0f);
      b.segment_start.push_back(0);
      b.positions.push_back(static_cast<std::int32_t>(t));
    }
  }
  return b;
}

}  // namespace thimble
