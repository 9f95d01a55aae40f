// How budgets are dealt: over the layers of a model, over the heads of a layer, over the positions
// of a head.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compress/kv_options.h"

namespace thimble {

/// Budgets of the layers, falling by equal steps from the first to the last, `budget` on average:
/// what a layer has beyond `held` (sinks and window) is 1/20 of the average in the last layer and
/// as much more in the first, or less of either where the first would have more than the context.
/// Ref: Cai et al. 2024, "PyramidKV", section 4.2 (beta = 20).
std::vector<std::int64_t> pyramid_budgets(std::int64_t budget, std::int64_t held,
                                          const KvShape& shape);

/// One head's content when a budget is dealt.
struct HeadScores {
  std::span<const float> scores;  // of its positions, ascending in the text
  std::span<const std::int32_t> positions;
  std::int64_t sinks = 0, window = 0;  // positions below `sinks` and the last `window` stay
};

/// The indices that stay of each head, ascending: the best `budget` of every head, what always
/// stays included; of equal scores the earlier.
std::vector<std::vector<std::int64_t>> keep_even(std::span<const HeadScores> heads,
                                                 std::int64_t budget);

/// The same for heads of different lengths: the best heads * budget of all heads together, but of
/// every head at least a share of `safeguard` of the budget.
/// Ref: Feng et al. 2024, "Ada-KV", algorithm 1 (safeguard = 0.2).
std::vector<std::vector<std::int64_t>> keep_adaptive(std::span<const HeadScores> heads,
                                                     std::int64_t budget, double safeguard);

}  // namespace thimble
