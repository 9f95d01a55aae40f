// Says before a job starts what memory it will take, by running its own code on a planning arena;
// resolves the job's "auto" values; refuses a job that does not fit and says what would.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launcher/plan/job_setup.h"
#include "train/memory_report.h"

namespace thimble {

/// How the sequences of a step are cut into accumulation_steps.
struct BatchPlan {
  std::int64_t sequences = 0;           // per optimizer step, of all ranks
  std::int64_t micro_batch = 0;         // sequences per micro-batch and rank
  std::int64_t accumulation_steps = 0;  // the last one may be filled up with sequences without loss
  int ranks = 1;
  std::string text() const;  // "64 sequences = 4 sequences x 2 ranks x 8 accumulation_steps"

  /// The place in the step, from 0, of sequence i of a micro-batch of a rank; `sequences` and more:
  /// a sequence without loss.
  std::int64_t place(std::int64_t index, int rank, std::int64_t i) const {
    return (index * ranks + rank) * micro_batch + i;
  }
};
BatchPlan cut_batch(std::int64_t sequences, std::int64_t micro_batch, int ranks = 1);

/// Which rank of how many is planned for, and how many share this machine's memory.
struct RankPlace {
  int rank = 0, ranks = 1, ranks_on_node = 1;
  int on_gpu = 1;  // ranks that share a GPU
  bool here =
      true;  // on this machine: what does not fit is refused, otherwise it is planned all the same
};

/// What happens in a run besides steps, as far as memory is concerned.
struct RunShape {
  bool evaluates = true;
  std::vector<std::int64_t> sample_prompt_tokens;  // lengths of the prompts decoded at evaluations
};
inline constexpr std::int64_t kSampleNewTokens = 64;

/// Runs load, two steps, evaluation, samples, save and export on a planning arena.
MemoryReport plan_memory(const JobSetup& setup, const job::JobConfig& job, const BatchPlan& batch,
                         const RunShape& shape, const RankPlace& place = {});

struct Budget {
  std::int64_t bytes = 0;
  std::string bound_by;  // "memory.budget", "free memory", "cgroup limit"
};
/// Of a rank: what the job says, or 90 % of what is free on the host, or on a GPU. Throws UserError
/// if there is no GPU to ask.
Budget resolve_budget(const job::AutoBytes& budget, DeviceKind device, const RankPlace& place);

struct JobPlan {
  BatchPlan batch;
  int zero_stage = 0;
  StepTraffic traffic;  // of this rank in one step
  MemoryReport memory;
  std::vector<GroupSummary> groups;  // which optimizer took how much
  std::int64_t checkpoint_bytes = 0;
  Budget budget;
  bool fits = true;
};

/// Resolves the ZeRO stage and the micro-batch and plans. Throws UserError, with edits that would
/// fit, if nothing fits the budget.
JobPlan plan_job(const JobSetup& setup, const job::JobConfig& job, const RunShape& shape,
                 const RankPlace& place = {});

/// Bytes taken outside the arena: on a host by the process (code, libraries, generated kernels), on
/// a GPU by the libraries' own modules and contexts, allowed for but not measured yet.
constexpr std::int64_t overhead_bytes(DeviceKind device) {
  return device == DeviceKind::kCpu ? 96 * kMiB : 512 * kMiB;
}

}  // namespace thimble
