// From a loaded job to what the engine, the data side and the optimizer are configured with. Reads
// model directories' configurations; opens no weights and no data.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/data_spec.h"
#include "data/tokenizer.h"
#include "launcher/job/job_config.h"
#include "models/transformer.h"
#include "optim/groups.h"
#include "optim/schedule.h"
#include "train/train_engine.h"

namespace thimble {

struct JobSetup {
  DeviceKind device = DeviceKind::kCpu;
  ModelConfig model;
  std::vector<std::string> model_notes;  // what the user should know about its configuration
  std::string source_config;             // text of model_dir's config.json
  std::filesystem::path model_dir;       // empty: from scratch
  std::filesystem::path tokenizer;       // directory, file or "byte"
  EngineOptions engine;                  // accumulates is set once the micro-batch is known
  DataSpec data;
  std::int64_t sequences_per_step = 0;
};

/// Throws UserError for settings that do not go together: a sequence longer than the model's
/// positions, a frozen pattern that matches nothing, a vocabulary too small for the tokenizer.
JobSetup make_setup(const job::JobConfig& job);

/// Opens the tokenizer and refuses one that can emit an id outside the model's vocabulary.
std::unique_ptr<Tokenizer> open_tokenizer(const std::filesystem::path& tokenizer,
                                          const ModelConfig& model);

/// Marks the parameters that match the job's freeze patterns. Throws UserError for a pattern
/// without a match or when nothing is left to train.
void apply_freeze(const job::JobConfig& job, Transformer& model);

/// The optimizer of the job for the model's parameters that are not frozen. Throws UserError for a
/// group that makes no sense of them.
OptimizerGroups make_optimizer(const job::JobConfig& job, const ParamTable& params);

/// The schedule of a run of `total_steps`.
Schedule make_schedule(const job::JobConfig& job, std::int64_t total_steps);

/// Where the weights of a job come from.
std::unique_ptr<TensorSource> open_weights(Arena& arena, const JobSetup& setup,
                                           const job::JobConfig& job, const ParamTable& params);

/// Sets the number of threads from the job's value or, for "auto", this rank's share of the cores;
/// returns it.
int apply_threads(const job::AutoInt& threads, int ranks_on_node = 1);

}  // namespace thimble
