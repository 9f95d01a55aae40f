#include "plan/placements.h"

#include <algorithm>
#include <array>
#include <optional>

#include "train/compressor_parts.h"

namespace thimble {
namespace {

// What is elsewhere, from the fastest on: an update moves the state once a step, and every
// micro-batch writes the gradients as they come, or reads the weights twice. A GPU's host is nearer
// than a disk.
constexpr std::array kLadder{
    OffloadedParts{},
    OffloadedParts{.host_state = true},
    OffloadedParts{.host_state = true, .host_gradients = true},
    OffloadedParts{.state = true},
    OffloadedParts{.state = true, .gradients = true},
    OffloadedParts{.state = true, .weights = true},
    OffloadedParts{.state = true, .gradients = true, .weights = true},
};

// Whether a part may be where a rung has it.
bool is_allowed(bool rung, bool fixed, bool open) {
  return rung == fixed || (rung && open);
}

bool is_allowed(const OffloadedParts& rung, const TrainSpec& spec) {
  const OffloadSpec& fixed = spec.offload;
  const OffloadedParts& open = spec.may_offload;
  return is_allowed(rung.state, fixed.state, open.state) &&
         is_allowed(rung.gradients, fixed.gradients, open.gradients) &&
         is_allowed(rung.weights, fixed.weights, open.weights) &&
         is_allowed(rung.host_state, fixed.host_state, open.host_state) &&
         is_allowed(rung.host_gradients, fixed.host_gradients, open.host_gradients);
}

// The spec with more elsewhere; none if that cannot be: weights in 8 bits stay in memory, updates
// within the backward pass keep no gradients, and every rank reads and writes rows of its own.
std::optional<TrainSpec> moved(const TrainSpec& spec, const OffloadedParts& rung, int ranks) {
  const bool weights = rung.weights && !spec.offload.weights,
             gradients = (rung.gradients && !spec.offload.gradients) ||
                         (rung.host_gradients && !spec.offload.host_gradients);
  if ((weights && has_int8(spec)) || (gradients && spec.engine.fused_backward)) return std::nullopt;
  TrainSpec next = spec;
  put_elsewhere(rung, next.offload);
  const int stage = weights ? 3 : gradients ? 2 : 0;
  if (ranks == 1 || stage <= spec.engine.zero_stage) return next;
  if (!spec.any_zero_stage) return std::nullopt;
  next.engine.zero_stage = stage;
  return next;
}

}  // namespace

bool has_int8(const TrainSpec& spec) {
  Transformer model(spec.model, spec.adapter);
  const std::unique_ptr<CompressorModel> compressor = make_compressor(spec, model);
  if (compressor == nullptr) freeze_parameters(spec.freeze, model);
  const ParamTable& params = compressor != nullptr ? compressor->params() : model.params();
  const OptimizerGroups optimizer = make_optimizer(spec.optimizer, params);
  const auto ids = params.ids();
  return std::any_of(ids.begin(), ids.end(),
                     [&](ParamId id) { return optimizer.int8_weight(params.info(id)); });
}

std::vector<TrainSpec> placements(const TrainSpec& spec, const RankPlace& place) {
  std::vector<TrainSpec> found;
  for (const OffloadedParts& rung : kLadder) {
    if (!is_allowed(rung, spec)) continue;
    if (auto next = moved(spec, rung, place.ranks)) found.push_back(std::move(*next));
  }
  return found;
}

OffloadedParts parts_elsewhere(const OffloadSpec& spec) {
  return {.state = spec.state,
          .gradients = spec.gradients,
          .weights = spec.weights,
          .host_state = spec.host_state,
          .host_gradients = spec.host_gradients};
}

void put_elsewhere(const OffloadedParts& parts, OffloadSpec& spec) {
  spec.state = parts.state;
  spec.gradients = parts.gradients;
  spec.weights = parts.weights;
  spec.host_state = parts.host_state;
  spec.host_gradients = parts.host_gradients;
}

}  // namespace thimble
