// What attention needs beyond its inputs: the positions of the tokens, the segment boundaries
// (which document a token belongs to), and, when decoding, the keys and values of earlier
// positions.
#pragma once

#include <utility>

#include "core/autograd/tape.h"

namespace thimble {

/// The KV cache: keys and values of earlier positions of one sequence, per layer.
class KvStore {
 public:
  virtual ~KvStore() = default;
  /// Appends the new positions' keys and values [T, Hkv*D] of a layer and returns all of that
  /// layer's, dense.
  virtual std::pair<Tensor, Tensor> append(int layer, const Tensor& k, const Tensor& v) = 0;
  /// Positions held before the current forward pass.
  virtual std::int64_t length() const = 0;
};

/// Observes or replaces what flows through one layer's attention. A null tap is the plain path, and
/// a tap that changes nothing gives the same bits.
class LayerTap {
 public:
  virtual ~LayerTap() = default;
  /// x [N, C]: the input of the layer's Q, K and V matrices.
  virtual void after_norm(int /*layer*/, Var& /*x*/) {}
  /// q [N, H*D], k and v [N, Hkv*D]; q and k before RoPE.
  virtual void before_rope(int /*layer*/, Var& /*q*/, Var& /*k*/, Var& /*v*/) {}
  /// k and v [N, Hkv*D] of the new positions, k after RoPE, before a KvStore takes them.
  virtual void after_rope(int /*layer*/, Var& /*k*/, Var& /*v*/) {}
  /// out [N, H*D]: the input of the layer's output matrix.
  virtual void attention_output(int /*layer*/, Var& /*out*/) {}
};

/// Positions and boundaries of the tokens of one forward pass; tensors on the model's device.
struct AttentionContext {
  std::int64_t sequences = 1;  // N = sequences * tokens per sequence
  Tensor positions;            // i32 [N], the position of each token: its row of rope_table
  Tensor segment_start;        // i32 [N], first key index that the token may see
  Tensor rope_table;           // f32 [positions, D]
  KvStore* kv = nullptr;       // decoding only; sequences is 1
  LayerTap* tap = nullptr;
};

}  // namespace thimble
