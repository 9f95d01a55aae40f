// Decoding one token at a time: prompt in chunks, then samples.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/kv_cache.h"
#include "models/transformer.h"

namespace thimble {

struct SamplingOptions {
  double temperature = 0;         // 0: greedy
  std::int64_t top_k = 0;         // 0: all
  double top_p = 1;               // 1: all
  double repetition_penalty = 1;  // 1: none; Keskar et al. 2019, section 4.1
  std::uint64_t seed = 0;
  std::vector<std::int32_t> never{};  // ids that are never drawn
};

/// Chooses the next token from logits [V]; `index` numbers the draws of a seed, `history` is
/// penalised. Greedy ties go to the lowest id.
std::int32_t sample_token(std::span<const float> logits, const SamplingOptions& options,
                          std::int64_t index, std::span<const std::int32_t> history);

/// Runs a model over one growing sequence.
class Decoder {
 public:
  Decoder(Arena& arena, const Transformer& model, ParamStore& store, DType dtype,
          std::int64_t capacity);

  /// Appends tokens (in chunks) and returns the logits [V] after the last one. Throws UserError
  /// beyond capacity.
  std::vector<float> feed(std::span<const std::int32_t> tokens);
  std::int64_t length() const { return cache_.length(); }
  std::int64_t capacity() const { return cache_.capacity(); }
  void clear() { cache_.clear(); }

 private:
  Arena& arena_;
  const Transformer& model_;
  ParamStore& store_;
  DType dtype_;
  DenseKvCache cache_;
  Tensor rope_table_;
};

}  // namespace thimble
