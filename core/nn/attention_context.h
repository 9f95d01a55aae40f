// What attention needs beyond its inputs: the positions of the tokens, the segment boundaries
// (which document a token belongs to), and, when decoding, the store of earlier positions
// (kv_store.h).
#pragma once

#include "core/autograd/tape.h"

namespace thimble {

class KvStore;

/// Observes or replaces what flows through one layer's attention. A null tap is the plain path, and
/// a tap that changes nothing gives the same bits.
class LayerTap {
 public:
  virtual ~LayerTap() = default;
  /// x [N, C]: the input of the layer's Q, K and V matrices.
  virtual void after_norm(int /*layer*/, Var& /*x*/) {}
  /// q [N, H*D], k and v [N, Hkv*D]; q and k before RoPE.
  virtual void before_rope(int /*layer*/, Var& /*q*/, Var& /*k*/, Var& /*v*/) {}
  /// The same of the new positions, q and k after RoPE, before attention or a KvStore takes them.
  virtual void after_rope(int /*layer*/, Var& /*q*/, Var& /*k*/, Var& /*v*/) {}
  /// out [N, H*D]: the input of the layer's output matrix.
  virtual void attention_output(int /*layer*/, Var& /*out*/) {}
};

/// Positions and boundaries of the tokens of one forward pass; tensors on the model's device.
struct AttentionContext {
  std::int64_t sequences = 1;  // N = sequences * tokens per sequence
  Tensor positions;            // i32 [N], the position of each token: its row of rope_table
  Tensor segment_start;        // i32 [N], first key index that the token may see
  Tensor rope_table;           // f32 [positions, D]
  KvStore* kv = nullptr;       // decoding only; sequences is 1 or those of a KvBatch
  LayerTap* tap = nullptr;
};

}  // namespace thimble
