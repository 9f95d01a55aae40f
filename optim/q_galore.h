// Q-GaLore's lazy refresh: a subspace whose first singular vector has hardly turned is refreshed
// half as often. (Its 4-bit projector is ProjectorFormat::kInt4.)
// Ref: Zhang et al. 2024, "Q-GaLore: quantized GaLore with INT4 projection and layer-adaptive
// low-rank gradients", section 3.2; here the sign of a vector does not count, and after a doubling
// only new similarities do.
#pragma once

#include "optim/optimizer_entry.h"
#include "optim/subspace.h"

namespace thimble {

extern const OptimizerEntry kQGaloreEntry;

/// State: eight numbers per matrix.
class LazyRefresh {
 public:
  /// similar: the mean |cosine| over five refreshes from which on a subspace has settled.
  explicit LazyRefresh(float similar = 0.4f) : similar_(similar) {}
  static StateSlot state_slot();
  /// Whether this refresh is not one of those that are left out.
  bool is_due(const Tensor& numbers) const;
  /// Counts a refresh. before, next f32 [s, r]: the bases; next is undefined if nothing was learnt,
  /// which is no similarity.
  void learn(const Subspace& s, const Tensor& numbers, const Tensor& before,
             const Tensor& next) const;

 private:
  float similar_;
};

}  // namespace thimble
