// From what the user wrote (job::JobConfig) to what is trained (TrainSpec). Reads model
// directories' configurations; opens no weights and no data.
#pragma once

#include <filesystem>
#include <memory>

#include "data/tokenizer.h"
#include "launcher/job/job_config.h"
#include "optim/schedule.h"
#include "train/train_spec.h"

namespace thimble {

/// Throws UserError for settings that do not go together: a sequence longer than the model's
/// positions, tokens per step that are no multiple of a sequence, a model without a tokenizer.
TrainSpec make_spec(const job::JobConfig& job);

/// Opens the tokenizer and refuses one that can emit an id outside the model's vocabulary.
std::unique_ptr<Tokenizer> open_tokenizer(const std::filesystem::path& tokenizer,
                                          const ModelConfig& model);

/// The learning rates of a run of `total_steps`.
Schedule make_schedule(const job::JobConfig& job, std::int64_t total_steps);

/// Sets the number of threads from the job's value or, for "auto", this rank's share of the cores;
/// returns it.
int apply_threads(const job::AutoInt& threads, int ranks_on_node = 1);

}  // namespace thimble
