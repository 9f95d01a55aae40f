// FRUGAL: Adam for some columns of the short side (or some layers), the sign of the gradient for
// the others; which ones changes every update_gap steps, and their moments start again. Ref:
// Zmushko et al. 2025, "FRUGAL: memory-efficient optimization by reducing state overhead",
// algorithm 1, projections "columns" and "blockwise".
#pragma once

#include <optional>

#include "optim/layer_schedule.h"
#include "optim/low_rank.h"

namespace thimble {

extern const OptimizerEntry kFrugalEntry;

struct FrugalOptions {
  AdamOptions adam;
  double density = 0.25;         // share of the columns that have moments
  double inactive_lr_scale = 1;  // of the sign's step
  std::int64_t update_gap = 200;
  /// Whole layers have moments instead of columns; density is then not read.
  std::optional<LayerSchedule> layers;
};

/// State: 8 * density bytes per parameter in f32. Nothing is summed over slices.
class Frugal final : public Optimizer, public LayerSelection {
 public:
  explicit Frugal(const FrugalOptions& options) : options_(options) {}
  OptimizerNeed needs(const ParamInfo& info) const override;
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override;
  const LayerSelection* selection(const ParamInfo&) const override { return this; }
  std::int64_t state_generation(const ParamInfo& info, std::int64_t step) const override;
  bool varies() const override { return options_.layers.has_value(); }
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;

  /// The columns with moments at refresh number `refresh`, ascending; the same on every slice.
  std::vector<std::int64_t> active_columns(const ParamInfo& info, std::uint64_t seed,
                                           std::int64_t refresh) const;

 private:
  void step_layer(const UpdateArgs& args) const;
  std::int64_t num_active(const ParamInfo& info) const;
  FrugalOptions options_;
};

}  // namespace thimble
