#include "optim/blockwise.h"

namespace thimble {

const OptimizerEntry kBAdamEntry{
    .name = "badam",
    .summary =
        "AdamW on one transformer layer at a time, in turn; the others rest: no gradient is "
        "computed for them, no state kept",
    .use = "to fine-tune all layers of a model with the memory of one; embedding and head rest",
    .memory = "2 values per weight of the active layers, none of the others",
    .state = "8 L s",
    .needs = "any rows; nothing",
    .paper = "Luo et al. 2024, BAdam: a memory efficient full parameter optimization method",
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      return std::make_unique<Blockwise>(
          s.adam, layer_schedule(s, {.order = LayerSchedule::Order::kDescending}));
    },
    .keys =
        "active_layers=1 betas decay_all eps eps_mode layer_order=descending state_dtype "
        "update_proj_gap=50 wd_order weight_decay"};

const OptimizerEntry kLisaEntry{
    .name = "lisa",
    .summary =
        "AdamW on two random transformer layers at a time; the others rest: no gradient is "
        "computed for them, no state kept",
    .use =
        "to fine-tune with little memory while the fallback trains embedding and head at every "
        "step",
    .memory = "2 values per weight of the active layers, none of the others",
    .state = "8 L s",
    .needs = "any rows; nothing",
    .paper = "Pan et al. 2024, LISA: layerwise importance sampling",
    .takes = OptimizerEntry::Takes::kLayers,
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      return std::make_unique<Blockwise>(s.adam, layer_schedule(s, {.active = 2, .gap = 20}));
    },
    .keys =
        "active_layers=2 betas decay_all eps eps_mode layer_order=random state_dtype "
        "update_proj_gap=20 wd_order weight_decay"};

void Blockwise::round(int, const UpdateArgs& args, const RoundSums&, RoundSums&) const {
  if (args.weight.device().planning) return;
  adam_step(weight_update(args, weight_decay(adam_, args.info, args.lr)),
            moment_state(args, element_moments(args.info), adam_.state),
            adam_math(adam_, schedule_.age(args.step), args.lr));
}

}  // namespace thimble
