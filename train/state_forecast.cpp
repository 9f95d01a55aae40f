#include "train/state_forecast.h"

#include <algorithm>

namespace thimble {

std::vector<StateUse> StateForecast::begin_backward(const UpdateLoop& loop, bool updates,
                                                    std::int64_t step) {
  running_ = updates ? 1 : 0;
  on_course_ = true;
  for (std::vector<bool>& of : foreseen_)
    of.assign(static_cast<std::size_t>(params_.size()), false);
  std::vector<StateUse> uses;
  for (const Event& event : backward_passes_[running_]) {
    std::vector<UpdateItem> items;
    for (const UpdateItem& item : event.items) {
      if (!optimizer_.updates(params_.info(item.id), step)) continue;
      items.push_back(item);
      foreseen(event.is_gradient)[static_cast<std::size_t>(item.id)] = true;
    }
    if (items.empty()) continue;
    const bool none =
        event.is_gradient && optimizer_.projected_width(params_.info(items.front().id), step) == 0;
    if (none) continue;
    const std::vector<StateUse> more =
        event.is_gradient ? loop.projection_uses(items.front().id, step) : loop.uses(items, step);
    uses.insert(uses.end(), more.begin(), more.end());
  }
  backward_passes_[running_].clear();
  return uses;
}

bool StateForecast::note(Event event) {
  const std::vector<bool>& known = foreseen(event.is_gradient);
  on_course_ = on_course_ &&
               std::all_of(event.items.begin(), event.items.end(), [&](const UpdateItem& item) {
                 return known[static_cast<std::size_t>(item.id)];
               });
  backward_passes_[running_].push_back(std::move(event));
  return on_course_;
}

}  // namespace thimble
