#include "train/delayed_update.h"

#include <algorithm>

namespace thimble {

const std::vector<std::vector<UpdateItem>>& DelayedUpdate::begin(std::span<const UpdateItem> items,
                                                                 const UpdateStep& step) {
  step_ = step;
  next_ = 0;
  pending_ = true;
  waiting_.assign(blocks_.size(), {});
  for (const UpdateItem& item : items) {
    const auto first = std::find_if(blocks_.begin(), blocks_.end(), [&](const auto& ids) {
      return std::find(ids.begin(), ids.end(), item.id) != ids.end();
    });
    TH_CHECK(first != blocks_.end(), "a parameter of no block");
    waiting_[static_cast<std::size_t>(first - blocks_.begin())].push_back(item);
  }
  return waiting_;
}

void DelayedUpdate::finish_to(BlockId block) {
  if (failure_) std::rethrow_exception(failure_);
  while (next_ < waiting_.size() && next_ <= static_cast<std::size_t>(block)) {
    const std::vector<UpdateItem> items = std::move(waiting_[next_++]);
    if (items.empty()) continue;
    try {
      update_(items, step_);
    } catch (...) {
      failure_ = std::current_exception();
      throw;
    }
  }
}

void DelayedUpdate::finish() {
  finish_to(static_cast<BlockId>(blocks_.size()) - 1);
  pending_ = false;
}

}  // namespace thimble
