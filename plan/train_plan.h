// Settles, before a run starts, what was left open: the ZeRO stage and the micro-batch that fit a
// budget; says what the run will take of memory, traffic and disk. Knows no job file: a spec that
// does not fit is reported, and refused by others.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "offload/slot_disk.h"
#include "plan/activation_plan.h"
#include "plan/host_updates.h"

namespace thimble {

/// Disk that all ranks together may use.
struct DiskBudget {
  std::int64_t bytes = 0;
  std::int64_t checkpoints = 0;  // that lie there too, beside the slots of the state
};

/// Memory that a rank may use.
struct Budget {
  std::int64_t bytes = 0;
  std::string bound_by;  // "memory.budget", "free memory", "cgroup limit"
  /// Of the host's memory beside a GPU; none: not known, and not asked.
  std::optional<std::int64_t> host_bytes = {};
  std::optional<DiskBudget> disk = {};  // none: not known, and not asked
};

struct TrainPlan {
  BatchPlan batch;
  int zero_stage = 0;
  OffloadedParts offload;                // what is elsewhere
  std::int64_t cache_bytes = 0;          // of memory for state that is not read from the disk
  DiskTraffic disk;                      // of this rank in one step, on average
  DiskTraffic disk_by_passes;            // of it, during forward and backward passes
  std::int64_t gradient_disk_bytes = 0;  // that a rank's gradients take of the disk
  HostTraffic host;            // of this rank in one step, with its state on the GPU's host
  UpdateBytes updates;         // the same of an update, by element
  double gpu_share = 1;        // of these updates
  ActivationPlan activations;  // beside that
  Recompute recompute = Recompute::kNone;
  double recompute_share = 1;
  bool by_layers = false;  // see EngineOptions
  StepTraffic traffic;     // of this rank in one step
  MemoryReport memory;
  bool is_planned = true;            // false, while a plan is searched: `memory` is estimated
  std::vector<GroupSummary> groups;  // which optimizer took how much
  std::int64_t checkpoint_bytes = 0;
  Budget budget;
  bool fits = true;  // false: the smallest plan that was tried
};

/// What a run takes of disks with so many copies of its state: slots and checkpoints.
std::int64_t disk_bytes(const TrainPlan& plan, std::int64_t states);

/// Finds the first of the activation_choices() and placements() that fits the budget, at it the
/// lowest ZeRO stage, from the spec's on, and the largest micro-batch that fit; what the spec fixes
/// stays. plan.fits is false if nothing does. What does not fit the disk, or the host's memory, is
/// passed over, if anything else fits. What the budget leaves becomes the cache of state on disk,
/// if the spec lets the plan choose it. Throws UserError for settings that do not go together.
TrainPlan plan_training(const TrainSpec& spec, const Budget& budget, const RankPlace& place = {},
                        const Rates& rates = {});

/// Whether the plan keeps state on the host of a GPU that has not got so much memory.
bool is_too_large_for_host(const TrainPlan& plan);

/// Whether any of these choices fits, as plan_training() would find, with less work.
bool fits_somewhere(const TrainSpec& spec, const Budget& budget, const RankPlace& place);

/// The spec with what the plan has settled.
TrainSpec settled(TrainSpec spec, const TrainPlan& plan, const RankPlace& place);

}  // namespace thimble
