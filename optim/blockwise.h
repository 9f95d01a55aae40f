// AdamW on a few transformer layers at a time; the others rest: no gradient is computed for them
// and no state kept.
// Ref: Luo et al. 2024, "BAdam: a memory efficient full parameter optimization method", algorithm 1
// (one layer); Pan et al. 2024, "LISA: layerwise importance sampling" (a few at random).
#pragma once

#include "optim/layer_schedule.h"
#include "optim/optimizer_entry.h"

namespace thimble {

extern const OptimizerEntry kBAdamEntry, kLisaEntry;

/// State: 8 bytes per element of the active layers, from zero at each switch.
class Blockwise final : public GpuOptimizer, public LayerSelection {
 public:
  Blockwise(const AdamOptions& adam, const LayerSchedule& schedule)
      : adam_(adam), schedule_(schedule) {}
  OptimizerNeed needs(const ParamInfo& info) const override {
    return element_need(info, adam_.state);
  }
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override {
    return moment_slots(element_moments(info), adam_.state);
  }
  const LayerSelection* selection(const ParamInfo&) const override { return this; }
  /// A parameter outside of the layers always rests.
  bool updates(const ParamInfo& info, std::int64_t step) const override {
    return info.layer >= 0 && schedule_.is_active(info.layer, step);
  }
  std::int64_t state_generation(const ParamInfo& info, std::int64_t step) const override {
    return updates(info, step) ? schedule_.period(step) : -1;
  }
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;

 private:
  AdamOptions adam_;
  LayerSchedule schedule_;
};

}  // namespace thimble
