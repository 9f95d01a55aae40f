#include "optim/blockwise.h"

namespace thimble {

void Blockwise::round(int, const UpdateArgs& args, const RoundSums&, RoundSums&) const {
  if (args.weight.device().planning) return;
  adam_step(args.grad.numel(), gradient_source(args), weight_values(args),
            moment_state(args, element_moments(args.info), adam_.state),
            adam_math(adam_, schedule_.age(args.step), args.lr),
            weight_decay(adam_, args.info, args.lr));
}

}  // namespace thimble
