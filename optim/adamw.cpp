#include "optim/adamw.h"

namespace thimble {

const OptimizerEntry kAdamWEntry{
    .name = "adamw",
    .summary =
        "Adam with decoupled weight decay: each weight has a step size of its own, from the "
        "running means of its gradient and of the gradient's square",
    .use = "as the default; all others are compared with it",
    .memory = "2 values per weight",
    .state = "8 L s",
    .needs = "any rows; nothing",
    .paper = "Loshchilov & Hutter 2019, Decoupled weight decay regularization",
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      return std::make_unique<AdamW>(s.adam);
    },
    .keys = "betas decay_all eps eps_mode state_dtype wd_order weight_decay"};

const OptimizerEntry kAdamW8BitEntry{
    .name = "adamw_8bit",
    .summary = "AdamW whose two moments are kept in 8 bits, in blocks of 256 with a scale each",
    .use = "to save three quarters of AdamW's state at AdamW's learning rate and nearly its loss",
    .memory = "2 bytes per weight, and an f32 scale per block of 256 values",
    .state = "2.03 L s",
    .needs = "rows in whole blocks; nothing",
    .paper = "Dettmers et al. 2022, 8-bit optimizers via block-wise quantization",
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      return std::make_unique<AdamW>(with_state(s.adam, StateFormat::k8Bit));
    },
    .keys = "betas decay_all eps eps_mode wd_order weight_decay"};

OptimizerNeed AdamW::needs(const ParamInfo& info) const {
  return element_need(info, options_.state);
}

std::vector<StateSlot> AdamW::state_slots(const ParamInfo& info) const {
  return moment_slots(element_moments(info), options_.state);
}

void AdamW::round(int, const UpdateArgs& args, const RoundSums&, RoundSums&) const {
  if (args.weight.device().planning) return;
  adam_step(weight_update(args, weight_decay(options_, args.info, args.lr)),
            moment_state(args, element_moments(args.info), options_.state),
            adam_math(options_, args.step, args.lr));
}

}  // namespace thimble
