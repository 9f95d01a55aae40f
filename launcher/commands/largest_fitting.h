// How large a job may become on a machine.
#pragma once

#include <string>

#include "launcher/plan/job_plan.h"

namespace thimble {

/// The largest micro-batch or, for any other `what`, sequence length that fits; 0: none does.
std::int64_t largest_fitting(const std::string& what, TrainSpec spec, const job::JobConfig& job,
                             const RankPlace& place);

}  // namespace thimble
