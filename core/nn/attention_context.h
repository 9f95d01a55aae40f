// What attention needs beyond its inputs: where tokens stand, which documents they belong to, and,
// when decoding, where earlier keys and values are.
#pragma once

#include <utility>

#include "core/autograd/tape.h"

namespace thimble {

/// Keys and values of earlier positions, per layer. One sequence.
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
  virtual void after_norm(int /*layer*/, Var& /*x*/) {}
  virtual void before_rotation(int /*layer*/, Var& /*q*/, Var& /*k*/, Var& /*v*/) {}
  virtual void after_rotation(int /*layer*/, Var& /*k*/, Var& /*v*/) {}
  virtual void attention_output(int /*layer*/, Var& /*out*/) {}
};

/// Positions and boundaries of the tokens of one forward pass; tensors on the model's device.
struct AttentionContext {
  std::int64_t sequences = 1;  // N = sequences * tokens per sequence
  Tensor positions;            // i32 [N], angle index of each token
  Tensor segment_start;        // i32 [N], first key index that the token may see
  Tensor rope_table;           // f32 [positions, D]
  KvStore* kv = nullptr;       // decoding only; sequences is 1
  LayerTap* tap = nullptr;
};

}  // namespace thimble
