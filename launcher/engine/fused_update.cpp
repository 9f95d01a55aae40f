#include "launcher/engine/fused_update.h"

#include <algorithm>
#include <cmath>

#include "core/ops/ops.h"
#include "parallel/collectives.h"

namespace thimble {

void FusedUpdate::begin(const Step& step, std::span<const UpdateItem> items) {
  step_ = step;
  squares_ = {};
  skipped_.clear();
  items_.assign(static_cast<std::size_t>(params_.size()), {});
  for (const UpdateItem& item : items) items_[static_cast<std::size_t>(item.id)] = item;
}

void FusedUpdate::ready(std::span<const ParamId> ids) {
  std::vector<ExactSum> sums(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (gradients_.grad(ids[i]).numel() > 0) ops::add_squares(arena_, sums[i], gradients_.grad(ids[i]));
  }
  if (shards_gradients_) all_reduce(comm_, "norms", std::span(sums));
  // Those that are clipped alike are updated together: their sums travel as one.
  std::vector<std::pair<double, std::vector<UpdateItem>>> groups;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const double squares = sums[i].value();
    if (!std::isfinite(squares)) {
      skipped_.push_back(ids[i]);
      gradients_.release(ids[i]);
      continue;
    }
    squares_.add(sums[i]);
    if (step_.only_measures) {
      gradients_.release(ids[i]);
      continue;
    }
    double scale = step_.update.grad_scale;
    if (step_.max_tensor_norm > 0)
      scale *= std::min(1.0, step_.max_tensor_norm / (std::sqrt(squares) + 1e-6));
    const auto same = std::find_if(groups.begin(), groups.end(),
                                   [scale](const auto& g) { return g.first == scale; });
    auto& items = same == groups.end()
                      ? groups.emplace_back(scale, std::vector<UpdateItem>()).second
                      : same->second;
    items.push_back(items_.at(static_cast<std::size_t>(ids[i])));
  }
  for (const auto& [scale, items] : groups) {
    UpdateStep step = step_.update;
    step.grad_scale = scale;
    update_(items, step);
  }
}

}  // namespace thimble
