// The memory that training takes, to the byte, by running its own code on a planning arena.
#pragma once

#include <cstdint>

#include "core/base/numeric.h"
#include "parallel/planning_communicator.h"
#include "plan/batch_plan.h"
#include "train/assembled_engine.h"
#include "train/memory_report.h"

namespace thimble {

/// The rank that is planned for, and its neighbours.
struct RankPlace {
  int rank = 0, ranks = 1;
  int ranks_on_node = 1;  // ranks that share the memory of a machine
  int on_gpu = 1;         // ranks that share a GPU
  // What is said of a node that is not this machine; 0: this one is asked.
  std::int64_t node_memory_bytes = 0, node_disk_bytes = 0;
};

/// The engine of one rank on a planning arena and communicator. `accumulates`: several
/// micro-batches per step.
struct PlannedEngine {
  PlannedEngine(const TrainSpec& spec, const RankPlace& place, bool accumulates);

  std::unique_ptr<Arena> arena;
  PlanningCommunicator comm;
  AssembledEngine assembled;
};

/// A batch of sizes only, as planning takes them.
Batch planned_batch(std::int64_t sequences, std::int64_t seq_len);

inline constexpr std::int64_t kSampleNewTokens = 64;

/// Runs load, the steps that take the most memory, evaluation, samples, save and export on a
/// planning arena.
MemoryReport plan_memory(const TrainSpec& spec, const BatchPlan& batch,
                         const RankPlace& place = {});

/// Bytes taken outside the arena: on a host by the process (code, libraries, generated kernels), on
/// a GPU by the libraries' own modules and contexts, allowed for but not measured yet.
constexpr std::int64_t overhead_bytes(DeviceKind device) {
  return device == DeviceKind::kCpu ? 96 * kMiB : 512 * kMiB;
}

}  // namespace thimble
