// What the commands that take a job file share.
#pragma once

#include <string>
#include <vector>

#include "launcher/job/job_config.h"
#include "plan/train_plan.h"

namespace CLI {
class App;
}

namespace thimble {

class Tokenizer;

struct JobArguments {
  std::string file;
  std::vector<std::string> sets;
  bool json = false;
};

/// The job file and --set.
void add_job_arguments(CLI::App& app, JobArguments& arguments);

/// Loads the job; with `speaks` notes and warnings go to the log.
job::JobConfig load_job_arguments(const JobArguments& arguments, bool speaks = true);

/// The lengths of the prompts that evaluations continue: TrainSpec::sample_prompt_tokens.
std::vector<std::int64_t> sample_prompt_tokens(const job::JobConfig& job,
                                               const Tokenizer& tokenizer);

/// The plan in words, as `plan` and the start of `train` show it.
std::string plan_text(const TrainSpec& spec, const TrainPlan& plan);

std::int64_t export_disk_bytes(const TrainSpec& spec);

}  // namespace thimble
