// The differentiable operations that only some families of models need; as those of functional.h.
#pragma once

#include "core/nn/functional.h"

namespace thimble {

/// factor * x; reuses x's memory when nobody else holds it. Factor 1 is x itself.
Var scale(Context& ctx, Var x, float factor);

/// rms_norm() with the factors 1 + weight.
Var unit_rms_norm(Context& ctx, const Var& x, Weight weight, float eps);

/// gelu(gate) * up with the tanh form of gelu, [N, F] each.
Var geglu(Context& ctx, const Var& gate, const Var& up);

/// RoPE of x [N, H*head_dim]: of the first R elements of every head, where R is the width of
/// attention.rope_table. Reuses x's memory when nobody else holds it.
Var partial_rope(Context& ctx, Var x, const AttentionContext& attention, std::int64_t head_dim);

}  // namespace thimble
