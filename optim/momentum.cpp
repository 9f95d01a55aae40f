#include "optim/momentum.h"

namespace thimble {
namespace {

StateSlot momentum_slot(const ParamInfo& info) {
  return element_slot("exp_avg", DType::kF32, info);
}

}  // namespace

OptimizerNeed Sgd::needs(const ParamInfo& info) const {
  return element_need(info, options_.state);
}

std::vector<StateSlot> Sgd::state_slots(const ParamInfo& info) const {
  if (options_.momentum == 0) return {};
  return state_slots_of(momentum_slot(info), options_.state);
}

void Sgd::round(int, const UpdateArgs& args, const RoundSums&, RoundSums&) const {
  if (args.weight.device().planning) return;
  StoredValues state;
  if (options_.momentum != 0) {
    state = state_values(args, momentum_slot(args.info), args.state, options_.state, true, 1);
  }
  const MomentumMath math{.momentum = static_cast<float>(options_.momentum),
                          .gain = static_cast<float>(args.step == 1 ? 1.0 : 1 - options_.dampening),
                          .nesterov = options_.nesterov,
                          .lr = static_cast<float>(args.lr)};
  const AdamOptions decay{.weight_decay = options_.weight_decay, .decay_all = options_.decay_all};
  momentum_step(args.grad.numel(), gradient_source(args), weight_values(args), state, math,
                weight_decay(decay, args.info, args.lr));
}

OptimizerNeed Lion::needs(const ParamInfo& info) const {
  return element_need(info, options_.state);
}

std::vector<StateSlot> Lion::state_slots(const ParamInfo& info) const {
  return state_slots_of(momentum_slot(info), options_.state);
}

void Lion::round(int, const UpdateArgs& args, const RoundSums&, RoundSums&) const {
  if (args.weight.device().planning) return;
  lion_step(args.grad.numel(), gradient_source(args), weight_values(args),
            state_values(args, momentum_slot(args.info), args.state, options_.state, true, 1),
            static_cast<float>(options_.beta1), static_cast<float>(options_.beta2),
            static_cast<float>(args.lr), weight_decay(options_, args.info, args.lr));
}

}  // namespace thimble
