// Retaining heads: two small matrices of a layer that say of every position, from its own queries,
// keys and values, how much each key-value head will want to have kept it. Their parameters, and
// the scores that a cache goes by. Ref: Huang et al. 2024, "Locret", section 3.1.
#pragma once

#include <memory>
#include <vector>

#include "compress/compressor_config.h"
#include "core/nn/functional.h"
#include "core/nn/kv_store.h"

namespace thimble {

/// Parameters of one layer's heads, under their names in kvc.safetensors.
struct HeadShapes {
  std::string first_name, second_name;
  Shape first, second;  // [width, (H + 2 Hkv) D] and [Hkv, width]
};
HeadShapes head_shapes(const CompressorConfig& config, const BackboneShape& backbone, int layer);

/// Trained heads as a cache reads them.
class RetainingHeads {
 public:
  struct Layer {
    Tensor first;   // [width, (H + 2 Hkv) D], in the dtype of queries, keys and values
    Tensor second;  // f32 [Hkv, width]
  };
  /// `layers`: one of each layer of the model; undefined tensors where it has none.
  RetainingHeads(std::vector<Layer> layers, HeadActivation activation)
      : layers_(std::move(layers)), activation_(activation) {}

  /// Scores f32 [Hkv, N] of the positions (tag workspace), from q and k before RoPE, and v.
  Tensor scores(Arena& arena, const KvQueries& in) const;
  bool has_heads(int layer) const {
    return layers_.at(static_cast<std::size_t>(layer)).first.defined();
  }
  std::int64_t bytes() const;

 private:
  std::vector<Layer> layers_;
  HeadActivation activation_;
};

/// s = W2 act(W1 [q; k; v]) under a tape: [N, Hkv]. Of q, k and v no gradient is taken.
struct HeadInputs {
  const Tensor& q;  // [N, H*D] before RoPE
  const Tensor& k;  // [N, Hkv*D] before RoPE
  const Tensor& v;  // as k
};
struct HeadWeights {
  Weight first, second;
};
Var retaining_scores(Context& ctx, const HeadInputs& in, const HeadWeights& weights,
                     HeadActivation activation);

}  // namespace thimble
