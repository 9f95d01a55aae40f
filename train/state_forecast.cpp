#include "train/state_forecast.h"

#include <algorithm>

namespace thimble {

std::vector<StateUse> StateForecast::begin_backward(
    bool updates, const std::function<std::vector<StateUse>(const Event&)>& uses) {
  running_ = updates ? 1 : 0;
  is_running_ = true;
  on_course_ = true;
  for (std::vector<bool>& of : foreseen_) std::fill(of.begin(), of.end(), false);
  std::vector<StateUse> all;
  for (Event& event : backward_passes_[running_]) {
    event.again = foreseen_[index(event.kind)].at(static_cast<std::size_t>(event.items.front().id));
    for (const UpdateItem& item : event.items)
      foreseen_[index(event.kind)].at(static_cast<std::size_t>(item.id)) = true;
    const std::vector<StateUse> more = uses(event);
    all.insert(all.end(), more.begin(), more.end());
  }
  backward_passes_[running_].clear();
  return all;
}

bool StateForecast::comes(Event event) {
  if (!is_running_) return false;
  const std::vector<bool>& known = foreseen_[index(event.kind)];
  on_course_ = on_course_ &&
               std::all_of(event.items.begin(), event.items.end(), [&](const UpdateItem& item) {
                 return known[static_cast<std::size_t>(item.id)];
               });
  backward_passes_[running_].push_back(std::move(event));
  return on_course_;
}

}  // namespace thimble
