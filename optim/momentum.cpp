#include "optim/momentum.h"

namespace thimble {

const OptimizerEntry kSgdEntry{
    .name = "sgd",
    .summary = "plain gradient descent with momentum: AdamW without a step size per weight",
    .use = "as a baseline; transformers learn slowly with it",
    .memory = "1 value per weight, instead of 2; none with momentum = 0",
    .state = "4 L s",
    .needs = "any rows; nothing",
    .paper = "Sutskever et al. 2013, On the importance of initialization and momentum",
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      return std::make_unique<Sgd>(SgdOptions{.momentum = s.momentum.value_or(0.9),
                                              .weight_decay = s.adam.weight_decay,
                                              .decay_all = s.adam.decay_all,
                                              .state = s.adam.state});
    },
    .keys = "decay_all momentum=0.9 state_dtype weight_decay",
    .lr = {1e-3, 1, 20}};

const OptimizerEntry kLionEntry{
    .name = "lion",
    .summary =
        "every weight moves by the learning rate along the sign of its momentum; AdamW "
        "without a second moment",
    .use = "to save half of AdamW's state; use a third to a tenth of AdamW's learning rate",
    .memory = "1 value per weight, instead of 2",
    .state = "4 L s",
    .needs = "any rows; nothing",
    .paper = "Chen et al. 2023, Symbolic discovery of optimization algorithms",
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      return std::make_unique<Lion>(s.adam);
    },
    .keys = "betas decay_all state_dtype wd_order weight_decay",
    .lr = {1e-6, 1e-3, 0.02}};

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
    state = state_values(args, momentum_slot(args.info), args.state,
                         {.format = options_.state, .is_signed = true, .which = 1});
  }
  const MomentumMath math{.momentum = static_cast<float>(options_.momentum),
                          .gain = static_cast<float>(args.step == 1 ? 1.0 : 1 - options_.dampening),
                          .nesterov = options_.nesterov,
                          .lr = static_cast<float>(args.lr)};
  const AdamOptions decay{.weight_decay = options_.weight_decay, .decay_all = options_.decay_all};
  momentum_step(weight_update(args, weight_decay(decay, args.info, args.lr)), state, math);
}

OptimizerNeed Lion::needs(const ParamInfo& info) const {
  return element_need(info, options_.state);
}

std::vector<StateSlot> Lion::state_slots(const ParamInfo& info) const {
  return state_slots_of(momentum_slot(info), options_.state);
}

void Lion::round(int, const UpdateArgs& args, const RoundSums&, RoundSums&) const {
  if (args.weight.device().planning) return;
  lion_step(weight_update(args, weight_decay(options_, args.info, args.lr)),
            state_values(args, momentum_slot(args.info), args.state,
                         {.format = options_.state, .is_signed = true, .which = 1}),
            {.beta1 = static_cast<float>(options_.beta1),
             .beta2 = static_cast<float>(options_.beta2),
             .lr = static_cast<float>(args.lr)});
}

}  // namespace thimble
