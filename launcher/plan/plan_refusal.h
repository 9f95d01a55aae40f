// The message for a job that does not fit its memory: what it needs, and edits of the job that were
// planned and fit.
#pragma once

#include "launcher/plan/job_plan.h"

namespace thimble {

/// A job as it was planned.
struct PlannedJob {
  const TrainSpec& spec;  // at the ZeRO stage that was tried last
  const job::JobConfig& job;
  const RankPlace& place;
};

/// Throws the UserError. `least` is the smallest plan of the job as it is.
[[noreturn]] void refuse_plan(const PlannedJob& planned, const MemoryReport& least,
                              const Budget& budget);

}  // namespace thimble
