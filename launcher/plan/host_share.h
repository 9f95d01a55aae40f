// How much of the updates of state on a GPU's host the GPU computes, where the job leaves that
// open.
#pragma once

#include <optional>

#include "launcher/job/job_config.h"
#include "plan/train_plan.h"

namespace thimble {

/// For a plan that keeps state on the host: the fastest share by what the GPU of this thread, the
/// CPU and the way between them reach; none if the job gives it, or no GPU is here. `rates`:
/// measured here, if they are not known.
std::optional<double> measured_gpu_share(const job::JobConfig& job, const TrainPlan& plan,
                                         UpdateRates& rates);

/// What a step moves to and from the host, and how long its update takes if that is known; empty
/// if no state is there.
std::string host_text(const TrainPlan& plan, const UpdateRates& rates);

}  // namespace thimble
