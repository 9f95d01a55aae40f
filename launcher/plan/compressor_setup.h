// The compressor that a job asks for.
#pragma once

#include "launcher/job/job_config.h"
#include "train/train_spec.h"

namespace thimble {

/// Sets spec.compressor and what belongs to it; spec.model and spec.data are there already. Throws
/// UserError for keys that do not go together, or that differ from the compressor to go on from.
void add_compressor(const job::JobConfig& job, TrainSpec& spec);

}  // namespace thimble
