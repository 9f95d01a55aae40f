// The largest micro-batch that fits a budget.
#pragma once

#include "plan/train_plan.h"

namespace thimble {

/// Tries micro-batches of a spec, and keeps in a plan the last that fitted, or else the smallest.
class MicroBatchTrials {
 public:
  /// All must outlive it.
  MicroBatchTrials(const TrainSpec& spec, const RankPlace& place, TrainPlan& plan)
      : spec_(spec), place_(place), plan_(plan) {}

  /// Where an estimate is clear of the budget it is believed; sure: only if it says no.
  bool fits(std::int64_t micro, bool sure);
  void believe_no_estimates() { believes_ = false; }

 private:
  const TrainSpec& spec_;
  const RankPlace& place_;
  TrainPlan& plan_;
  bool any_ = false, kept_fits_ = false, believes_ = true;
};

/// The plan at the spec's ZeRO stage with the largest micro-batch that fits, or the spec's own;
/// false: none does, and the plan is the smallest that was tried.
bool plan_micro_batch(const TrainSpec& spec, const RankPlace& place, TrainPlan& plan);

}  // namespace thimble
