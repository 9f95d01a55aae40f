#include "train/fused_update.h"

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
    if (gradients_.grad(ids[i]).numel() > 0)
      ops::add_squares(arena_, sums[i], gradients_.grad(ids[i]));
  }
  if (shards_gradients_) all_reduce(comm_, "norms", std::span(sums));
  std::vector<UpdateItem> items;  // together: their sums travel as one
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
    UpdateItem& item = items.emplace_back(items_.at(static_cast<std::size_t>(ids[i])));
    item.grad_scale = step_.grad_scale;
    if (step_.max_tensor_norm > 0)
      item.grad_scale *= std::min(1.0, step_.max_tensor_norm / (std::sqrt(squares) + 1e-6));
  }
  if (!items.empty()) update_(items, step_.update);
}

}  // namespace thimble
