// Settles, before a run starts, what was left open: the ZeRO stage and the micro-batch that fit a
// budget; says what the run will take of memory, traffic and disk. Knows no job file: a spec that
// does not fit is reported, and refused by others.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "offload/slot_disk.h"
#include "plan/memory_plan.h"

namespace thimble {

/// Memory that a rank may use.
struct Budget {
  std::int64_t bytes = 0;
  std::string bound_by;  // "memory.budget", "free memory", "cgroup limit"
};

struct TrainPlan {
  BatchPlan batch;
  int zero_stage = 0;
  bool offload = false;        // state is on disk
  DiskTraffic disk;            // of this rank in one step
  DiskTraffic disk_by_passes;  // of it, during forward and backward passes
  StepTraffic traffic;         // of this rank in one step
  MemoryReport memory;
  std::vector<GroupSummary> groups;  // which optimizer took how much
  std::int64_t checkpoint_bytes = 0;
  Budget budget;
  bool fits = true;  // false: the smallest plan that was tried
};

/// Finds the lowest ZeRO stage, from the spec's on, and the largest micro-batch that fit the
/// budget; what the spec fixes stays. plan.fits is false if nothing does. Throws UserError for
/// settings that do not go together.
TrainPlan plan_training(const TrainSpec& spec, const Budget& budget, const RankPlace& place = {});

/// The spec with what the plan has settled.
TrainSpec settled(TrainSpec spec, const TrainPlan& plan, const RankPlace& place);

}  // namespace thimble
