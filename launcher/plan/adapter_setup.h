// The adapter that a job asks for.
#pragma once

#include "launcher/job/job_config.h"
#include "train/train_spec.h"

namespace thimble {

/// Sets spec.adapter and what belongs to it; spec.optimizer is there already. Throws UserError for
/// keys that do not go together, or that differ from the adapter to go on from.
void add_adapter(const job::JobConfig& job, TrainSpec& spec);

/// How an adapter's configuration names a base model: the Hub's name for a directory of the Hub's
/// cache, else the directory.
std::string base_model_name(const std::filesystem::path& model_dir);

}  // namespace thimble
