#include "train/stored_gradients.h"

#include <algorithm>
#include <cmath>

#include "core/ops/ops.h"

namespace thimble {

StoredGradients::StoredGradients(const Parts& parts, std::function<bool(ParamId)> announced)
    : parts_(parts), announced_(std::move(announced)) {
  begin_step(0);
}

void StoredGradients::begin_step(std::int64_t step) {
  step_ = step;
  const auto count = static_cast<std::size_t>(parts_.table.params().size());
  begun_.assign(count, false);
  final_.assign(count, false);
  squares_ = {};
  first_bad_ = ParamId::kNone;
}

// A projected gradient is small, and of another form in every step.
bool StoredGradients::takes(ParamId id) const {
  return step_ > 0 && parts_.optimizer.projected_width(parts_.table.params().info(id), step_) == 0;
}

// By the rows in which the update reads them. A vector is one piece, for its squares are summed as
// a whole.
std::vector<StateUse> StoredGradients::uses(ParamId id, bool again) const {
  const StateEntry& entry = *parts_.table.find(id, StateKind::kGradient);
  const Slice rows = entry.held_rows(parts_.rank);
  const StateAccess access = again ? StateAccess::kChange : StateAccess::kOverwrite;
  if (!parts_.table.params().info(id).is_matrix()) return {{entry.id, rows, access}};
  std::vector<StateUse> uses;
  for (const UpdateLoop::Part& part : parts_.loop.counted_parts({id, rows}, step_))
    uses.push_back({entry.id, part.rows, access, false, part.times});
  return uses;
}

void StoredGradients::add(ParamId id, const Tensor& rows, bool last) {
  const std::vector<StateUse> order = uses(id, begun_[index(id)]);
  if (!announced_(id)) parts_.state.announce(order);
  ExactSum squares;
  for (const StateUse& use : order) {
    const StateLease lease = parts_.state.acquire(use);
    const std::int64_t first =
        parts_.table.find(id, StateKind::kGradient)->held_rows(parts_.rank).begin;
    const Tensor more = rows.rows(use.rows.begin - first, use.rows.end - first);
    if (use.access == StateAccess::kOverwrite) {
      ops::copy(lease.tensor(), more);
    } else {
      ops::accumulate(lease.tensor(), more);
    }
    if (last) ops::add_squares(parts_.arena, squares, lease.tensor());
  }
  begun_[index(id)] = true;
  if (!last) return;
  final_[index(id)] = true;
  squares_.add(squares);
  const bool bad = !std::isfinite(squares.value());
  if (bad && (first_bad_ == ParamId::kNone || id < first_bad_)) first_bad_ = id;
}

}  // namespace thimble
