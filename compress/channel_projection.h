// The differentiable form of a cache that stores coordinates: vectors of each head to some channels
// of a trained orthogonal basis and back. On a CPU.
#pragma once

#include "core/nn/functional.h"

namespace thimble {

/// Of the keys or the values of one layer, of Hkv heads with D channels. R = B * Cayley(X - X'),
/// Cayley(A) = (I - A/2)^-1 (I + A/2): orthogonal whatever X is, and B where X = 0.
/// Ref: Lin et al. 2024, "MatryoshkaKV", section 3.2, about the principal axes B.
struct BasisWeights {
  Weight basis;  // B [Hkv * D, D], frozen: axes as columns
  Weight mean;   // [Hkv * D], frozen
  Weight skew;   // X [Hkv * D, D]
};

/// x [N, Hkv * D] -> (x - mean) R_r R_r' + mean with the first `rank` columns of R.
Var project_channels(Context& ctx, const Var& x, const BasisWeights& weights, std::int64_t rank);

/// R of all heads, f32 [Hkv * D, D] (tag io), in f64 on the way.
Tensor trained_basis(Arena& arena, ParamStore& store, const BasisWeights& weights);

}  // namespace thimble
