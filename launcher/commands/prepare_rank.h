// What all ranks of a training run agree on before the first allocation: the job, the run's
// directory, the data and the plan. Rank 0 leads: it holds the directory and decides.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/device/gpu.h"
#include "data/training_data.h"
#include "launcher/commands/new_run.h"
#include "launcher/commands/train_rank.h"
#include "launcher/job/resume_job.h"
#include "launcher/run/run_dir.h"
#include "plan/train_plan.h"

namespace thimble {

struct Prepared {
  job::JobConfig job;          // with the values that were "auto"
  TrainSpec spec;              // as the plan has settled it
  TrainPlan plan;              // of this rank
  UpdateRates update_rates{};  // if a choice was made by them
  std::optional<GpuInfo> gpu;
  // Rank 0 alone has the next four. NewRun goes before the lock of RunDir does.
  std::optional<RunDir> held;
  std::unique_ptr<NewRun> fresh;
  job::ResumeDiff job_change;
  std::vector<std::pair<std::string, std::string>> content;
  std::filesystem::path run;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<TrainingData> data;
  std::int64_t steps = 0;  // of the whole run
};

/// All ranks call it together. Throws UserError for a job that is refused, and for ranks that were
/// started with different jobs or do not share storage.
Prepared prepare_rank(const RankSetting& rank);

}  // namespace thimble
