#include "core/nn/optimizer.h"

#include <algorithm>

namespace thimble {

int Optimizer::rounds(const ParamInfo& info, std::int64_t step) const {
  const MultiRoundUpdate* several = multi_round(info);
  return several != nullptr ? several->rounds(info, step) : 1;
}

SumCount Optimizer::sums(const ParamInfo& info, std::int64_t step, int round) const {
  const MultiRoundUpdate* several = multi_round(info);
  return several != nullptr ? several->sums(info, step, round) : SumCount{};
}

std::int64_t Optimizer::carry_bytes(const ParamInfo& info, Slice slice, std::int64_t step) const {
  const MultiRoundUpdate* several = multi_round(info);
  return several != nullptr ? several->carry_bytes(info, slice, step) : 0;
}

StateAccess Optimizer::access(const ParamInfo& info, const StateSlot& slot, std::int64_t step,
                              int round) const {
  const MultiRoundUpdate* several = multi_round(info);
  return several != nullptr ? several->access(info, slot, step, round) : StateAccess::kChange;
}

std::int64_t Optimizer::projected_width(const ParamInfo& info, std::int64_t step) const {
  const GradientProjector* projection = projector(info);
  return projection != nullptr ? projection->projected_width(info, step) : 0;
}

bool Optimizer::updates(const ParamInfo& info, std::int64_t step) const {
  const LayerSelection* layers = selection(info);
  return layers == nullptr || layers->updates(info, step);
}

std::int64_t Optimizer::state_generation(const ParamInfo& info, std::int64_t step) const {
  const LayerSelection* layers = selection(info);
  return layers != nullptr ? layers->state_generation(info, step) : 0;
}

bool Optimizer::int8_weight(const ParamInfo& info) const {
  const ParamGroups* groups = param_groups();
  return groups != nullptr && groups->int8_weight(info);
}

double Optimizer::lr_factor(const ParamInfo& info) const {
  const ParamGroups* groups = param_groups();
  return groups != nullptr ? groups->lr_factor(info) : 1;
}

bool varies(const Optimizer& optimizer, const ParamTable& params) {
  const auto of_param = [&](ParamId id) {
    const ParamInfo& info = params.info(id);
    if (!info.trainable) return false;
    const LayerSelection* layers = optimizer.selection(info);
    return (layers != nullptr && layers->varies()) || optimizer.projector(info) != nullptr;
  };
  const auto ids = params.ids();
  return std::any_of(ids.begin(), ids.end(), of_param);
}

}  // namespace thimble
