#include "launcher/engine/state_forecast.h"

namespace thimble {

void StateForecast::begin_pass(bool updates) {
  running_ = updates ? 1 : 0;
  passes_[running_].clear();
}

std::vector<StateUse> StateForecast::expected(const UpdateLoop& loop, bool updates,
                                              std::int64_t step) const {
  std::vector<StateUse> uses;
  for (const Event& event : passes_[updates ? 1 : 0]) {
    std::vector<UpdateItem> items;
    for (const UpdateItem& item : event.items) {
      if (optimizer_.updates(params_.info(item.id), step)) items.push_back(item);
    }
    if (items.empty()) continue;
    const bool none =
        event.is_gradient && optimizer_.image_width(params_.info(items.front().id), step) == 0;
    if (none) continue;
    const std::vector<StateUse> more =
        event.is_gradient ? loop.image_uses(items.front().id, step) : loop.uses(items, step);
    uses.insert(uses.end(), more.begin(), more.end());
  }
  return uses;
}

}  // namespace thimble
