// Warns of values that are allowed but far from anything useful.
#pragma once

#include <string>
#include <vector>

#include "launcher/job/job_config.h"

namespace thimble::job {

/// One line for each value of a job far outside of what works: learning rates by optimizer.
std::vector<std::string> implausible_values(const JobConfig& job);

}  // namespace thimble::job
