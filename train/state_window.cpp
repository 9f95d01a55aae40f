#include "train/state_window.h"

#include <algorithm>
#include <map>

#include "core/base/numeric.h"
#include "train/offload_stores.h"

namespace thimble {

std::int64_t usual_window(const StateTable& table, int rank, const OffloadSpec& spec) {
  constexpr std::int64_t kLeast = 4 * kMiB;
  std::int64_t bytes = 0, of_a_layer = 0;
  std::map<int, std::int64_t> by_layer;
  for (const StateEntry& entry : table.entries()) {
    if (entry.in_weight_store() && !(spec.weights && entry.saved)) continue;
    const std::int64_t held = entry.held(rank).size;
    bytes += held;
    const int layer = table.params().info(entry.param).layer;
    if (layer >= 0) of_a_layer = std::max(of_a_layer, by_layer[layer] += held);
  }
  const std::int64_t usual = std::min(bytes / 8, OffloadStores::kMostWindow),
                     delayed = std::min(of_a_layer, OffloadStores::kMostDelayedWindow);
  return std::max({kLeast, usual, spec.delayed_update ? delayed : 0});
}

}  // namespace thimble
