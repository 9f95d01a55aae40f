// Where activations are between the passes, and what of them is computed again: what that moves,
// and which way is the fastest.
#pragma once

#include <vector>

#include "plan/memory_plan.h"
#include "plan/rates.h"

namespace thimble {

struct ActivationPlan {
  ActivationPlace place = ActivationPlace::kMemory;
  DiskTraffic disk;             // of a rank in one step
  std::int64_t disk_bytes = 0;  // of a rank, at most
  bool on_disk() const { return place == ActivationPlace::kSsd; }
};

/// Of the spec as it is.
ActivationPlan plan_activations(const TrainSpec& spec, const BatchPlan& batch,
                                const RankPlace& place);

/// The spec with every choice of recompute and of a place for activations that it leaves open, by
/// the predicted time of a step. Rates that are 0 are not known: what needs a disk comes last then.
std::vector<TrainSpec> activation_choices(const TrainSpec& spec, const RankPlace& place,
                                          const Rates& rates);

}  // namespace thimble
