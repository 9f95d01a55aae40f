// Attention of one new position over the blocks of a layer's heads, which are read where they lie.
#pragma once

#include "compress/layer_content.h"

namespace thimble {

struct CacheAttention {
  KeyRotation rotation;
  bool sums = false;  // adds the attention that each position draws to its score
};

/// The heads hold the new position already. q [1, H * stored channels of keys], out [1, H * those
/// of values]. Parallel over heads and pieces of their positions, which are cut by lengths alone
/// and joined in order.
void attend_heads(Arena& arena, std::span<const HeadCache> heads, const KvQueries& in,
                  const CacheAttention& how, const Tensor& out);

}  // namespace thimble
