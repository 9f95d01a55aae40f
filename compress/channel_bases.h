// Orthogonal bases in which keys and values are stored by their first, most important coordinates:
// one basis of each key-value head for its keys after RoPE, and one for its values. A cache then
// holds r of D channels. Ref: Lin et al. 2024, "MatryoshkaKV", section 3; one basis per key-value
// head, shared by its queries, where its authors' code has one per query head.
#pragma once

#include <vector>

#include "compress/compressor_config.h"
#include "core/nn/kv_store.h"

namespace thimble {

class ChannelBases {
 public:
  /// Of keys or values of one layer. Head h has the rows [h * D, (h + 1) * D) of `basis`.
  struct Part {
    Tensor basis;  // [Hkv * D, r], its columns orthonormal; in the dtype of keys and values
    Tensor shift;  // [Hkv, r]: minus the mean in this basis
    Tensor mean;   // [Hkv, D]
  };
  struct Layer {
    Part keys, values;
  };
  explicit ChannelBases(std::vector<Layer> layers) : layers_(std::move(layers)) {}

  std::int64_t key_rank() const { return layers_[0].keys.basis.dim(1); }
  std::int64_t value_rank() const { return layers_[0].values.basis.dim(1); }
  const Layer& layer(int index) const { return layers_.at(static_cast<std::size_t>(index)); }
  std::int64_t bytes() const;

  /// Coordinates of k and of v, less their means: [N, Hkv*r] (tag workspace).
  Tensor keys(Arena& arena, const KvQueries& in) const;
  Tensor values(Arena& arena, const KvQueries& in) const;
  /// Coordinates of q [N, H*D] in the bases of its keys: [N, H*r]. Products with the keys' are
  /// those of q with the keys, less one that is the same for all keys of a query.
  Tensor queries(Arena& arena, const KvQueries& in) const;
  /// What attention over coordinates of values [N, H*r] is as attention over values, into out
  /// [N, H*D].
  void expand(Arena& arena, int layer, const Tensor& coordinates, const Tensor& out) const;

 private:
  std::vector<Layer> layers_;
};

/// Heads' vectors from coordinates [n, r]: out [n, D], with the mean.
void rebuild_rows(Arena& arena, const ChannelBases::Part& part, std::int64_t head,
                  const Tensor& coordinates, const Tensor& out);

}  // namespace thimble
