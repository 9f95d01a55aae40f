// The seam of decoding: a store takes the keys and values of new positions and computes what their
// queries attend to. It owns attention over its content, so that it may keep keys and values in
// whatever form it likes, of fewer positions than it was given, and of other positions in every
// head.
#pragma once

#include <cstdint>

#include "core/ops/ops.h"

namespace thimble {

/// The new positions of one layer; N of them, of one sequence unless a KvBatch says otherwise.
struct KvQueries {
  int layer = 0;
  Tensor q;              // [N, H*D] after RoPE
  Tensor k, v;           // [N, Hkv*D], k after RoPE
  Tensor raw_q, raw_k;   // q and k before RoPE, if the store reads_unrotated()
  Tensor input;          // [N, C], what the layer makes q, k and v of, if the store reads_inputs()
  Tensor positions;      // i32 [N]
  Tensor segment_start;  // i32 [N]; 0 when a sequence is decoded
  Tensor rope_table;     // f32 [positions, D]
  ops::AttentionShape shape;
};

/// What attention asks of a store.
class KvStore {
 public:
  virtual ~KvStore() = default;
  /// Takes the new positions and returns the attention of their queries over all that it holds, the
  /// new positions included: [N, H*D], tag activations.
  virtual Tensor attend(Arena& arena, const KvQueries& in) = 0;
  /// Whether attend() needs queries and keys before RoPE beside those after it.
  virtual bool reads_unrotated() const { return false; }
  /// Whether attend() needs the input of the layer's Q, K and V matrices.
  virtual bool reads_inputs() const { return false; }
};

/// The keys and values of one sequence, in every layer.
class KvCache : public KvStore {
 public:
  /// Positions of the sequence before the current forward pass, kept or not.
  virtual std::int64_t length() const = 0;
  /// Positions that the sequence may grow to.
  virtual std::int64_t capacity() const = 0;
  /// Ends a forward pass that gave every layer so many positions.
  virtual void advance(std::int64_t positions) = 0;
  virtual void clear() = 0;
  /// Positions that a key-value head of a layer holds.
  virtual std::int64_t kept(int layer, std::int64_t head) const = 0;
  /// What it has reserved of its arena.
  virtual std::int64_t bytes() const = 0;
};

}  // namespace thimble
