// When GaLore's subspace changes, and how the next one is found: block power iteration on G^T G
// from the last basis, or all eigenvectors of G^T G. Ref: Zhao et al. 2024, "GaLore:
// memory-efficient LLM training by gradient low-rank projection", section 3.2; Halko et al. 2011,
// "Finding structure with randomness", for the power iteration.
#pragma once

#include "optim/subspace.h"

namespace thimble {

class SubspaceRefresh {
 public:
  explicit SubspaceRefresh(const GaloreOptions& options) : options_(options) {}

  /// The step of a parameter's first refresh: 1, but if gradients are projected spread over many
  /// steps, so that whole gradients do not exist all at once.
  std::int64_t first(const ParamInfo& info) const;
  /// Whether the subspace may change before update number `step`.
  bool is_at(const ParamInfo& info, std::int64_t step) const;
  /// Rounds of sums that a step's refresh takes; 0: there is no refresh.
  int rounds(const ParamInfo& info, std::int64_t step) const;
  /// f32 sums over the slices in each of those rounds.
  std::int64_t num_sums(const ParamInfo& info) const;
  /// Whether gradients are projected at all: at full rank that would save nothing.
  bool projects(const ParamInfo& info) const {
    return options_.project_gradients && options_.rank < info.storage_shape()[1];
  }

  /// Stores a random orthonormal basis, with which power iteration begins: it misses no direction.
  void start_basis(const UpdateArgs& args, std::span<const Tensor> projector) const;
  /// out <- this slice's part of G^T (G P), which is the next basis; or of G^T G. subject: the G
  /// [rows, s] that the subspace is found for, f32 or bf16.
  void contribute(const Subspace& s, const Tensor& subject, RoundSums& out) const;
  /// next f32 [s, r] <- the basis from the sums over all slices, the same on each. False if nothing
  /// can be learnt of the gradient because it is zero or not finite, or on a planning arena.
  bool find(const Subspace& s, const RoundSums& in, const Tensor& next) const;

 private:
  GaloreOptions options_;
};

}  // namespace thimble
