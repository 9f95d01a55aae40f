// The plan of a job on this machine: its memory budget, what plan_training() makes of it, and the
// refusal of a job that does not fit, in the job's own keys.
#pragma once

#include "launcher/job/job_config.h"
#include "plan/train_plan.h"

namespace thimble {

/// Memory for one rank: what the job says, or 90 % of what is free on the host, or on a GPU. Throws
/// UserError if there is no GPU to ask.
Budget resolve_budget(const job::AutoBytes& budget, DeviceKind device, const RankPlace& place);

/// And the disk of all ranks, if they run on this machine alone.
Budget budget_of(const job::JobConfig& job, DeviceKind device, const RankPlace& place);

/// What becomes of a job that does not fit the budget.
enum class IfTooLarge : std::uint8_t {
  kRefuse,  // UserError with edits of the job that were planned and fit
  kReport,  // plan.fits is false
};

/// The directories that a job gives for state on disk; empty: the run's own is taken.
std::vector<std::filesystem::path> offload_paths(const job::OffloadConfig& offload);
/// The nearest part of a path that is there, a file perhaps; empty: nothing of a relative one.
std::filesystem::path existing_part(std::filesystem::path path);
/// Settles what the job leaves open; see plan_training(). `spec`: make_spec(job),
/// with the lengths of its sample prompts. Throws UserError for a job that cannot be planned.
TrainPlan plan_job(const TrainSpec& spec, const job::JobConfig& job, const RankPlace& place,
                   IfTooLarge if_too_large, const Rates& rates = {});

}  // namespace thimble
