#include "optim/adamw.h"

namespace thimble {

OptimizerNeed AdamW::needs(const ParamInfo& info) const {
  return element_need(info, options_.state);
}

std::vector<StateSlot> AdamW::state_slots(const ParamInfo& info) const {
  return moment_slots(element_moments(info), options_.state);
}

void AdamW::round(int, const UpdateArgs& args, const RoundSums&, RoundSums&) const {
  if (args.weight.device().planning) return;
  adam_step(args.grad.numel(), gradient_source(args), weight_values(args),
            moment_state(args, element_moments(args.info), options_.state),
            adam_math(options_, args.step, args.lr), weight_decay(options_, args.info, args.lr));
}

}  // namespace thimble
