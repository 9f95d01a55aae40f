// AdamW on a few transformer layers at a time; the others rest: no gradient is computed for them
// and no state kept.
// Ref: Luo et al. 2024, "BAdam: a memory efficient full parameter optimization method", algorithm 1
// (one layer); Pan et al. 2024, "LISA: layerwise importance sampling" (a few at random).
#pragma once

#include "optim/adam_options.h"
#include "optim/layer_schedule.h"

namespace thimble {

/// State: 8 bytes an element of the active layers, from zero at each switch.
class Blockwise final : public Optimizer {
 public:
  Blockwise(const AdamOptions& adam, const LayerSchedule& schedule)
      : adam_(adam), schedule_(schedule) {}
  OptimizerNeed needs(const ParamInfo& info) const override {
    return element_need(info, adam_.state);
  }
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override {
    return moment_slots(element_moments(info), adam_.state);
  }
  /// A parameter outside of the layers always rests.
  bool updates(const ParamInfo& info, std::int64_t step) const override {
    return info.layer >= 0 && schedule_.is_active(info.layer, step);
  }
  std::int64_t state_generation(const ParamInfo& info, std::int64_t step) const override {
    return updates(info, step) ? schedule_.period(step) : -1;
  }
  bool varies() const override { return true; }
  bool runs_on_gpu(const ParamInfo&, std::int64_t) const override { return true; }
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;

 private:
  AdamOptions adam_;
  LayerSchedule schedule_;
};

}  // namespace thimble
