#include "train/fused_update.h"

#include <cmath>

#include "core/ops/ops.h"
#include "parallel/collectives.h"
#include "train/gradient_clipping.h"

namespace thimble {

void FusedUpdate::begin(const Step& step, std::span<const UpdateItem> items) {
  step_ = step;
  squares_ = {};
  skipped_.clear();
  items_.assign(static_cast<std::size_t>(parts_.params.size()), {});
  for (const UpdateItem& item : items) items_[static_cast<std::size_t>(item.id)] = item;
}

void FusedUpdate::ready(std::span<const ParamId> ids) {
  std::vector<ExactSum> sums(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (parts_.gradients.grad(ids[i]).numel() > 0)
      ops::add_squares(parts_.arena, sums[i], parts_.gradients.grad(ids[i]));
  }
  if (parts_.shards_gradients) all_reduce(parts_.comm, "norms", std::span(sums));
  std::vector<UpdateItem> items;  // together: their sums travel as one
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const double squares = sums[i].value();
    if (!std::isfinite(squares)) {
      skipped_.push_back(ids[i]);
      parts_.gradients.release(ids[i]);
      continue;
    }
    squares_.add(sums[i]);
    if (step_.only_measures) {
      parts_.gradients.release(ids[i]);
      continue;
    }
    UpdateItem& item = items.emplace_back(items_.at(static_cast<std::size_t>(ids[i])));
    item.grad_scale = step_.grad_scale;
    item.grad_scale *= clip_factor(step_.max_tensor_norm, std::sqrt(squares));
  }
  if (!items.empty()) update_(items, step_.update);
}

}  // namespace thimble
