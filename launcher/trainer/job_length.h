// How many steps a job takes, and where its data ends.
#pragma once

#include <cstdint>

#include "data/sampler.h"
#include "launcher/job/job_config.h"
#include "train/train_spec.h"

namespace thimble {

/// The first sequence index after the last one of the job; sequences beyond it have no loss.
/// `total`: where the job is not of epochs.
std::int64_t last_sequence(const job::JobConfig& job, const Sampler& sampler, std::int64_t total);

/// Steps of a job over this data. Throws UserError if an epoch has no meaning for it.
std::int64_t total_steps(const job::JobConfig& job, const TrainSpec& spec, const Sampler& sampler);

}  // namespace thimble
