// What a run was trained on, by content: model, tokenizer and data, so that they may move and are
// refused when they were altered. Knows nothing of checkpoints; compares with what run.json says.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/training_data.h"
#include "launcher/job/resume_job.h"
#include "launcher/plan/job_setup.h"
#include "launcher/run/run_dir.h"

namespace thimble {

/// The hash of each thing that a run was trained on, by name: "model", "tokenizer",
/// "data.train[0]"... Weights are sampled: the hash covers their sizes, their headers and a part of
/// every few MiB.
std::vector<std::pair<std::string, std::string>> content_of(const TrainSpec& spec,
                                                            const Tokenizer& tokenizer,
                                                            const TrainingData& data);

/// The job that the run was last started with; none if it never was.
std::optional<job::JobConfig> earlier_job(const RunDir& run);

/// Compares the job with the one the run was started with, taking the content behind a changed path
/// to be the same; gives `job` the values that the run resolved "auto" to. Nothing has changed in a
/// new run. Throws UserError for what cannot be continued.
job::ResumeDiff check_job_of_run(const RunDir& run, job::JobConfig& job);

/// Throws UserError if `content` is not what the run has recorded, or if a path of `diff` changed
/// and nothing is recorded to compare it with.
void check_content_of_run(const RunDir& run, const job::ResumeDiff& diff,
                          const std::vector<std::pair<std::string, std::string>>& content);

}  // namespace thimble
