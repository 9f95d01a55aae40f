// Decoding one token at a time: prompt in chunks, then samples; and several sequences at once.
#pragma once

#include <cstdint>
#include <memory>
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

/// What a sequence is decoded with: its cache, the RoPE table of as many positions, and how many
/// tokens of a prompt go through the model at once.
struct DecodingCache {
  KvCache& kv;
  Tensor rope_table;
  std::int64_t prompt_chunk = 512;
};

/// Runs a model over one growing sequence.
class Decoder {
 public:
  /// With a dense cache of its own.
  Decoder(Arena& arena, const Transformer& model, ParamStore& store, DType dtype,
          std::int64_t capacity);
  /// With a cache that outlives it.
  Decoder(Arena& arena, const Transformer& model, ParamStore& store, DType dtype,
          const DecodingCache& cache);

  /// Appends tokens (in chunks) and returns the logits [V] after the last one. Throws UserError
  /// beyond capacity.
  std::vector<float> feed(std::span<const std::int32_t> tokens);
  std::int64_t length() const { return cache_->length(); }
  std::int64_t capacity() const { return cache_->capacity(); }
  void clear() { cache_->clear(); }

 private:
  Arena& arena_;
  const Transformer& model_;
  ParamStore& store_;
  DType dtype_;
  std::unique_ptr<DenseKvCache> own_;
  KvCache* cache_;
  Tensor rope_table_;
  std::int64_t prompt_chunk_;
};

/// One sequence's step: the token that follows what its cache holds.
struct NextToken {
  KvCache* cache = nullptr;
  std::int32_t token = 0;
};

/// A token of each of several sequences of any lengths, in one forward pass: weights are read once
/// for all. Returns logits [V] of each. `rope_table` reaches as far as the longest.
std::vector<std::vector<float>> decode_batch(Context& ctx, const Transformer& model,
                                             const Tensor& rope_table,
                                             std::span<const NextToken> tokens);

}  // namespace thimble
