// Training a job from its first to its last step: data, steps, evaluation, checkpoints, export. One
// process.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/device/stream.h"
#include "data/training_data.h"
#include "launcher/plan/job_plan.h"
#include "launcher/run/metrics.h"
#include "launcher/run/progress.h"
#include "launcher/run/run_dir.h"
#include "launcher/trainer/op_profile.h"
#include "launcher/trainer/step_means.h"
#include "train/save_checkpoint.h"

namespace thimble {

class Console;
class RankMonitor;

enum class TrainOutcome : std::uint8_t { kFinished, kStopped };

/// Everything a run is made of on one rank; the trainer owns none of it.
struct TrainerParts {
  const job::JobConfig& job;
  const JobSetup& setup;
  const JobPlan& plan;
  const Tokenizer& tokenizer;
  const TrainingData& data;
  std::filesystem::path run;  // the run's directory
  TrainEngine& engine;
  const Transformer& model;  // the engine's
  FileEngine& files;
  RunLog* log = nullptr;  // of rank 0
  std::shared_ptr<Console> console;
  std::int64_t total_steps = 0;
  double light_seconds_per_micro_batch =
      0;                              // best time of one micro-batch's matmuls; 0 = not measured
  std::optional<double> peak_flops;   // of the GPU's data sheet
  RankMonitor* monitor = nullptr;     // told of steps, and of what happens between them
  std::optional<std::int64_t> end_s;  // when the batch system ends this job, since 1970
  std::string model_config;           // text of config.json, kept in checkpoints
  std::string resolved_job;
  std::string trace;  // Chrome trace of this rank's kTracedSteps after the first two; empty: none
  std::string same_command = "the same command";  // what continues the run, in words
  bool quiet = false;
};
inline constexpr std::int64_t kTracedSteps = 3;

class Trainer {
 public:
  /// All ranks make and run theirs together.
  Trainer(TrainerParts parts, const TrainState& state);

  /// Trains until the last step, early stopping or a stop signal (then saved); evaluates, saves and
  /// exports on the way, and records that the run is finished. Throws SystemError after too many
  /// consecutive non-finite steps, and if at the end the last step could not be saved. An error of
  /// one rank must be followed by comm().abort(), before the trainer is destroyed.
  TrainOutcome run();

 private:
  std::vector<Batch> batches_of(std::int64_t step) const;
  void train_step(const std::vector<Batch>& batches);
  void evaluate();
  bool note_evaluation(double loss);
  void sample();
  void save();
  void note_saved(const std::filesystem::path& path);
  void export_model();
  std::int64_t load_step_to_export();
  CheckpointReader open_checkpoint_of(std::int64_t step, CheckpointCheck check) const;
  void finish();
  std::string saved_text() const;
  Communicator& comm() const { return parts_.engine.comm(); }
  bool leads() const { return comm().rank() == 0; }
  bool all_stop();
  bool must_stop();
  void trace_step(std::int64_t first);
  void log_step(const StepResult& r, double lr, double seconds);
  void log_rest();
  void give_up(const StepResult& r) const;
  EvalSum evaluate_set(const ValidationSet& set);
  Batch sequences_of(const Dataset& data, std::vector<std::int64_t> ids);
  void prefetch(std::int64_t step);
  void wait_for_data();
  [[noreturn]] void end_without_data();
  bool due(std::int64_t every) const { return every > 0 && state_.step % every == 0; }

  TrainerParts parts_;
  TrainState state_;
  Schedule schedule_;
  Progress progress_;
  std::int64_t consecutive_skips_ = 0;
  std::int64_t last_saved_ = -1;
  bool stop_early_ = false;
  bool improved_ = false;           // the evaluation at this step is the best so far
  bool stopping_ = false;           // a rank was told to stop
  double save_s_ = 0, step_s_ = 0;  // the longest so far
  std::string why_;                 // this rank was told to stop; empty: it was not
  StepMeans means_;                 // since the last record
  std::optional<StepMetrics> unlogged_;
  std::string data_error_;  // of this rank; empty: none
  std::unique_ptr<OpProfile> profile_;
  std::optional<ObserverScope> observer_;
  // Last, for the loader reads what is above and writes to next_: it ends first. Members, not
  // locals of run(): an error that leaves it is told to the other ranks before this one waits for
  // the loader.
  std::vector<Batch> next_;
  Stream loader_{"data"};
  Completion ready_;
};

/// Whether early stopping has ended the job that this state is of.
bool is_stopped_early(const job::JobConfig& job, const TrainState& state);

/// The step whose weights the job exports: that of the best evaluation, or the last.
std::int64_t exported_step(const job::JobConfig& job, const TrainState& state);

/// The first sequence index after the last one of the job; sequences beyond it have no loss.
/// `total`: where the job is not of epochs.
std::int64_t last_sequence(const job::JobConfig& job, const Sampler& sampler, std::int64_t total);

/// Steps of a job over this data. Throws UserError if an epoch has no meaning for it.
std::int64_t total_steps(const job::JobConfig& job, const JobSetup& setup, const Sampler& sampler);

}  // namespace thimble
