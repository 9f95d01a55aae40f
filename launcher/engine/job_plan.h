// Says before a job starts what memory it will take, by running its own code on a planning arena; resolves the
// job's "auto" values; refuses a job that does not fit and says what would.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launcher/engine/job_setup.h"
#include "launcher/engine/memory_report.h"

namespace thimble {

/// How the rows of a step are cut into passes.
struct BatchPlan {
  std::int64_t rows = 0;         // per optimizer step
  std::int64_t micro_batch = 0;  // rows per pass
  std::int64_t passes = 0;       // the last one may be filled up with rows without loss
  std::string text() const;      // "64 rows = 4 rows x 16 passes"
};
BatchPlan cut_batch(std::int64_t rows, std::int64_t micro_batch);

/// What happens in a run besides steps, as far as memory is concerned.
struct RunShape {
  bool evaluates = true;
  std::vector<std::int64_t> sample_prompt_tokens;  // lengths of the prompts decoded at evaluations
};
inline constexpr std::int64_t kSampleNewTokens = 64;

/// Runs load, two steps, evaluation, samples, save and export on a planning arena.
MemoryReport plan_memory(const JobSetup& setup, const job::JobConfig& job, const BatchPlan& batch,
                         const RunShape& shape);

struct Budget {
  std::int64_t bytes = 0;
  std::string bound_by;  // "memory.budget", "free memory", "cgroup limit"
};
Budget resolve_budget(const job::AutoBytes& budget);

struct JobPlan {
  BatchPlan batch;
  MemoryReport memory;
  Budget budget;
};

/// Resolves the micro-batch and plans. Throws UserError, with edits that would fit, if nothing fits the budget.
JobPlan plan_job(const JobSetup& setup, const job::JobConfig& job, const RunShape& shape);

/// Bytes that the process takes outside the arena: code, libraries, generated kernels.
inline constexpr std::int64_t kProcessOverheadBytes = 96 * kMiB;

}  // namespace thimble
