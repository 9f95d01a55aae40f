// Causal grouped-query attention in tiles; no T x T matrix exists at any moment.
// Ref: Dao 2023, "FlashAttention-2", algorithms 1 and 2.
#pragma once

#include "core/ops/kernel_table.h"

namespace thimble::cpu {

std::int64_t attention_workspace_bytes(const AttentionSpec& spec, bool backward);
void attention(const AttentionSpec& spec, const AttentionArgs& args);
void attention_grad(const AttentionSpec& spec, const AttentionGradArgs& args);

}  // namespace thimble::cpu
