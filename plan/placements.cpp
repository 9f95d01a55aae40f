#include "plan/placements.h"

#include <algorithm>
#include <array>

namespace thimble {
namespace {

// What is on disk, from the fastest on: an update moves the state once a step, and every
// micro-batch reads the weights twice.
constexpr std::array kLadder{OffloadedParts{}, OffloadedParts{.state = true},
                             OffloadedParts{.state = true, .weights = true}};

// Whether a part may be where a rung has it.
bool is_allowed(bool rung, bool fixed, bool open) {
  return rung == fixed || (rung && open);
}

// Weights can go to disk where none are kept in 8 bits and every rank reads its own rows.
bool may_move_weights(const TrainSpec& spec, const RankPlace& place) {
  const bool own_rows = place.ranks == 1 || spec.any_zero_stage || spec.engine.zero_stage == 3;
  return own_rows && !has_int8(spec);
}

}  // namespace

bool has_int8(const TrainSpec& spec) {
  Transformer model(spec.model);
  freeze_parameters(spec.freeze, model);
  const OptimizerGroups optimizer = make_optimizer(spec.optimizer, model.params());
  const auto ids = model.params().ids();
  return std::any_of(ids.begin(), ids.end(),
                     [&](ParamId id) { return optimizer.int8_weight(model.params().info(id)); });
}

std::vector<TrainSpec> placements(const TrainSpec& spec, const RankPlace& place) {
  const OffloadSpec& fixed = spec.offload;
  const OffloadedParts& open = spec.may_offload;
  std::vector<TrainSpec> found;
  for (const OffloadedParts& rung : kLadder) {
    if (!is_allowed(rung.state, fixed.state, open.state) ||
        !is_allowed(rung.weights, fixed.weights, open.weights)) {
      continue;
    }
    const bool moves_weights = rung.weights && !fixed.weights;
    if (moves_weights && !may_move_weights(spec, place)) continue;
    TrainSpec& next = found.emplace_back(spec);
    next.offload.state = rung.state;
    next.offload.weights = rung.weights;
    if (moves_weights && place.ranks > 1) next.engine.zero_stage = 3;
  }
  return found;
}

}  // namespace thimble
