// Expected attention: queries before RoPE are taken to be normal, so that the attention which those
// to come will pay to a key has a closed form.
#pragma once

#include "compress/scorers.h"

namespace thimble {

/// Positions ahead of the last that queries are expected at.
inline constexpr std::int64_t kLookAhead = 512;

/// score = mean over the group of softmax(k.mu / sqrt(D) + k' C k / 2D) * |v|, over all positions
/// but the sinks. mu and C are those of the queries since the sinks, rotated as on average over the
/// next 512 positions. Ref: Devoto et al. 2025, "Expected Attention", section 3.
std::unique_ptr<TokenScorer> make_expected_attention(Arena& arena, const KvPlan& plan);

/// Euclidean norms of the rows of x, f32 or bf16.
std::vector<float> row_norms(const Tensor& x);

}  // namespace thimble
