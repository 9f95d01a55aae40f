// What a run is made of on one rank; the trainer and its hooks own none of it.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/io/file_engine.h"
#include "data/training_data.h"
#include "launcher/job/job_config.h"
#include "launcher/run/metrics.h"
#include "plan/train_plan.h"

namespace thimble {

class CompressorModel;
class Console;
class OffloadStores;
class RankMonitor;
class Snapshots;

struct TrainerParts {
  const job::JobConfig& job;
  const TrainSpec& spec;
  const TrainPlan& plan;
  const Tokenizer& tokenizer;
  const TrainingData& data;
  std::filesystem::path run;  // the run's directory
  TrainEngine& engine;
  const Transformer& model;                     // the engine's
  const CompressorModel* compressor = nullptr;  // what the engine trains beside it; null: nothing
  FileEngine& files;
  OffloadStores* offload = nullptr;                // of state on disk; null: it is in memory
  Snapshots* snapshots = nullptr;                  // in memory; null: none are taken
  std::function<DiskTraffic()> disk_traffic = {};  // none: nothing is on disk
  std::int64_t saved_step = -1;                    // of the newest checkpoint; -1: there is none
  bool is_recovered = false;  // goes on from a state on disk, newer than any checkpoint
  RunLog* log = nullptr;      // on rank 0
  std::shared_ptr<Console> console;
  std::int64_t total_steps = 0;
  double roofline_seconds_per_micro_batch = 0;  // see Roofline; 0: not measured
  std::optional<double> peak_flops;             // of the GPU's data sheet
  RankMonitor* monitor = nullptr;     // is told of steps, and of what happens between them
  std::optional<std::int64_t> end_s;  // when the batch system ends this job, since 1970
  std::string model_config;           // text of config.json, kept in checkpoints
  std::string resolved_job;           // TOML, kept in checkpoints
  std::string trace;                  // file of this rank's Chrome trace; empty: none
  std::string same_command = "the same command";  // what continues the run, in words
  bool quiet = false;
};

}  // namespace thimble
