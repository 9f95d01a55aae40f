// What each position of a layer is worth to queries to come: one class per method. Positions that
// always stay (sinks and window) may have any score.
#pragma once

#include <memory>

#include "compress/layer_content.h"
#include "compress/moments.h"

namespace thimble {

class TokenScorer {
 public:
  virtual ~TokenScorer() = default;
  /// New queries of a layer, before they are scored.
  virtual void observe(const KvQueries& /*in*/) {}
  /// Scores that new positions come with and keep: f32 [Hkv, T] (tag workspace); undefined: none.
  virtual Tensor new_scores(Arena& /*arena*/, const KvQueries& /*in*/) { return {}; }
  /// Writes a score for every row of `content` to content.scores.
  virtual void score(Arena& arena, const KvQueries& in, const LayerContent& content) = 0;
  /// Whether scores are sums of attention that every query adds to.
  virtual bool sums_attention() const { return false; }
  virtual bool reads_unrotated() const { return false; }
  /// What it has reserved (tag kv).
  virtual std::int64_t bytes() const { return 0; }
  virtual void clear() {}
};

/// Null for methods without scores.
std::unique_ptr<TokenScorer> make_scorer(Arena& arena, const KvPlan& plan);

/// Queries [R, D] and a head's keys [n, D], both rotated; query r sees the keys before ends[r].
struct MassOf {
  const Tensor& queries;
  const Tensor& keys;
  std::span<const std::int64_t> ends;
  float scale = 1;
};
/// Adds to sums [n] the attention that each key draws from the queries. Workspace: R * n floats.
void add_attention_mass(Arena& arena, const MassOf& of, float* sums);

/// The same for all heads and all of the last T positions, into content.scores, some queries at a
/// time. `in` has rotated queries, or those before RoPE where positions are slots.
void add_chunk_mass(Arena& arena, const KvQueries& in, const KeyRotation& rotation,
                    const LayerContent& content);

/// What lies before a pooled value is averaged over `width` neighbours, zeros beyond the edges.
std::vector<float> average_pool(std::span<const float> values, std::int64_t width);

/// Moments as queries at positions [begin, begin + count) have them on average, where `moments` are
/// those before RoPE. The table may end before; then as far as it goes, or, where it has none of
/// these positions, at its last.
VectorMoments rotate_moments(const VectorMoments& moments, const Tensor& rope_table,
                             std::int64_t begin, std::int64_t count);

}  // namespace thimble
