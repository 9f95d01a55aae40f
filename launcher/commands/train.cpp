// `thimble train` and `thimble plan`: a job from file to finished run, or only what it would take.
#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint_directory.h"
#include "core/io/file.h"
#include "launcher/commands/command.h"
#include "launcher/commands/version.h"
#include "launcher/engine/job_plan.h"
#include "launcher/engine/speed_of_light.h"
#include "launcher/engine/trainer.h"
#include "launcher/job/load_job.h"
#include "launcher/job/resume_job.h"
#include "launcher/job/write_job.h"
#include "launcher/run/console.h"
#include "launcher/run/log.h"
#include "launcher/run/machine.h"
#include "launcher/run/signals.h"

namespace thimble {
namespace {

constexpr std::int64_t kJobTextLimit = 1 << 20;

struct JobArguments {
  std::string file;
  std::vector<std::string> sets;
  bool json = false;
};

struct TrainArguments : JobArguments {
  std::string resume = "auto";
  std::optional<std::int64_t> resume_from;
  bool fresh = false;
  std::string init_from;
};

job::JobConfig load(const JobArguments& arguments) {
  job::JobNotes notes;
  job::JobConfig loaded = job::load_job(arguments.file, arguments.sets, notes);
  for (const std::string& o : notes.overrides) spdlog::info("{}", o);
  for (const std::string& w : notes.warnings) spdlog::warn("{}", w);
  return loaded;
}

RunShape run_shape(const job::JobConfig& job, const Tokenizer& tokenizer) {
  RunShape shape;
  for (const std::string& prompt : job.eval.sample_prompts) {
    shape.sample_prompt_tokens.push_back(static_cast<std::int64_t>(sample_prompt_ids(tokenizer, prompt).size()));
  }
  return shape;
}

std::int64_t checkpoint_disk_bytes(const JobSetup& setup) { return 12 * setup.model.num_parameters(); }
std::int64_t export_disk_bytes(const JobSetup& setup) {
  return dtype_size(setup.engine.dtype) * setup.model.num_parameters();
}

std::string plan_text(const JobSetup& setup, const JobPlan& plan) {
  return fmt::format(
      "{:.1f} M parameters, {} with fp32 master and AdamW; {}\n{}resident at most {} (arena {} + process {}), budget "
      "{} ({})\ndisk: {} a checkpoint, {} the exported model",
      static_cast<double>(setup.model.num_parameters()) / 1e6, dtype_name(setup.engine.dtype), plan.batch.text(),
      to_table(plan.memory), format_bytes(plan.memory.extent_bytes + kProcessOverheadBytes),
      format_bytes(plan.memory.extent_bytes), format_bytes(kProcessOverheadBytes), format_bytes(plan.budget.bytes),
      plan.budget.bound_by, format_bytes(checkpoint_disk_bytes(setup)), format_bytes(export_disk_bytes(setup)));
}

nlohmann::ordered_json plan_json(const JobSetup& setup, const JobPlan& plan) {
  nlohmann::ordered_json phases = nlohmann::ordered_json::array();
  for (const MemoryPeak& p : plan.memory.phases) {
    nlohmann::ordered_json tags;
    for (std::size_t t = 0; t < kNumMemoryTags; ++t) {
      if (p.by_tag[t] > 0) tags[std::string(memory_tag_name(static_cast<MemoryTag>(t)))] = p.by_tag[t];
    }
    phases.push_back({{"phase", p.phase}, {"peak_bytes", p.total_bytes}, {"by_tag", tags}});
  }
  return {{"parameters", setup.model.num_parameters()},
          {"micro_batch_size", plan.batch.micro_batch},
          {"passes", plan.batch.passes},
          {"peak_bytes", plan.memory.peak_bytes()},
          {"arena_bytes", plan.memory.extent_bytes},
          {"resident_bytes", plan.memory.extent_bytes + kProcessOverheadBytes},
          {"budget_bytes", plan.budget.bytes},
          {"budget_bound_by", plan.budget.bound_by},
          {"checkpoint_disk_bytes", checkpoint_disk_bytes(setup)},
          {"export_disk_bytes", export_disk_bytes(setup)},
          {"phases", phases}};
}

// The largest value for which `fits` holds, doubling from `start`, up to `limit`; 0 if not even `start` fits.
template <typename Fits>
std::int64_t largest(std::int64_t start, std::int64_t limit, Fits&& fits) {
  if (!fits(start)) return 0;
  std::int64_t good = start, bad = start;
  while (good < limit) {
    bad = std::min(good * 2, limit);
    if (!fits(bad)) break;
    good = bad;
  }
  while (bad - good > std::max<std::int64_t>(1, good / 64)) {
    const std::int64_t middle = (good + bad) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good;
}

std::int64_t largest_fitting(const std::string& what, JobSetup setup, const job::JobConfig& job,
                             const RunShape& shape) {
  const Budget budget = resolve_budget(job.memory.budget);
  const auto fits = [&](const BatchPlan& batch) {
    return plan_memory(setup, job, batch, shape).extent_bytes + kProcessOverheadBytes <= budget.bytes;
  };
  if (what == "micro_batch_size") {
    return largest(1, setup.rows_per_step, [&](std::int64_t n) { return fits(cut_batch(setup.rows_per_step, n)); });
  }
  return largest(64, setup.model.max_positions, [&](std::int64_t n) {
    setup.engine.seq_len = n;
    return fits(cut_batch(setup.rows_per_step, job.training.micro_batch_size.value.value_or(1)));
  });
}

void run_plan(const JobArguments& arguments, const std::string& maximum) {
  const job::JobConfig job = load(arguments);
  apply_threads(job.threads);
  const JobSetup setup = make_setup(job);
  const RunShape shape = run_shape(job, *open_tokenizer(setup.tokenizer, setup.model));
  if (!maximum.empty()) {
    const std::int64_t value = largest_fitting(maximum, setup, job, shape);
    if (arguments.json) {
      fmt::print("{}\n", nlohmann::ordered_json{{"key", maximum}, {"largest", value}}.dump());
    } else {
      fmt::print("largest {} that fits: {}\n", maximum, value);
    }
    return;
  }
  const JobPlan plan = plan_job(setup, job, shape);
  fmt::print("{}\n", arguments.json ? plan_json(setup, plan).dump() : plan_text(setup, plan));
}

// Continue, start anew, or refuse: compares the job with the one the run was started with.
void check_resume(const TrainArguments& arguments, const RunDir& run, job::JobConfig& job) {
  if (!std::filesystem::exists(run.resolved_job())) return;
  const job::JobConfig earlier = job::parse_job_text(read_text_file(run.resolved_job(), kJobTextLimit),
                                                     run.resolved_job().string());
  job::adopt_resolved_values(earlier, job);
  const job::ResumeDiff diff = job::diff_for_resume(earlier, job, {});
  if (diff.verdict == job::ResumeVerdict::kRefused) {
    throw_user("{} was started with another job:\n{}\ncontinue with the old values, or start anew: --fresh (moves the "
               "old run aside), --set name=OTHER, or --init-from {} (its weights only)",
               run.path().string(), diff.text(), run.path().string());
  }
  if (diff.verdict == job::ResumeVerdict::kContinues) spdlog::info("the job has changed:\n{}", diff.text());
  if (diff.verdict == job::ResumeVerdict::kNewDuration) {
    spdlog::info("the duration has changed; the learning-rate schedule is recomputed:\n{}", diff.text());
  }
  static_cast<void>(arguments);
}

std::optional<CheckpointReader> choose_checkpoint(const TrainArguments& arguments, const RunDir& run,
                                                  const CheckpointIo& io) {
  if (arguments.resume == "never") return std::nullopt;
  if (arguments.resume_from) {
    return CheckpointReader::open(run.checkpoints() / fmt::format("ckpt-{}", *arguments.resume_from), io);
  }
  std::vector<std::string> rejected;
  std::optional<CheckpointReader> newest = open_newest_valid(run.checkpoints(), io, rejected);
  for (const std::string& r : rejected) spdlog::warn("passed over: {}", r);
  if (!newest && !rejected.empty()) {
    throw_user("{}: no usable checkpoint is left; --fresh starts anew", run.checkpoints().string());
  }
  if (!newest && arguments.resume == "must") {
    throw_user("{}: there is no checkpoint to resume from (--resume must)", run.checkpoints().string());
  }
  return newest;
}

void print_start(const JobSetup& setup, const JobPlan& plan, const Tokenizer& tokenizer, const TrainingData& data,
                 std::int64_t steps) {
  spdlog::info("plan\n{}", plan_text(setup, plan));
  const auto id = [](const std::optional<std::int32_t>& value) {
    return value ? std::to_string(*value) : std::string("none");
  };
  spdlog::info("tokenizer {}: BOS {}, EOS {}, PAD {}", tokenizer.name(), id(tokenizer.bos_id()),
               id(tokenizer.eos_id()), id(tokenizer.pad_id()));
  spdlog::info("data: {}", summary_text(data.summary()));
  spdlog::info("{} steps of {} positions", steps, plan.batch.rows * setup.engine.seq_len);
}

// Loads weights: from a checkpoint, from another run (weights only), or from the job's own source.
TrainState load_weights_of(TrainEngine& engine, const TrainArguments& arguments, const JobSetup& setup,
                           const job::JobConfig& job, const std::optional<CheckpointReader>& checkpoint) {
  const PhaseScope phase(engine.arena(), "load");
  if (checkpoint) {
    spdlog::info("resuming from {}", checkpoint->path().string());
    return load_checkpoint(engine, *checkpoint);
  }
  JobSetup from = setup;
  if (!arguments.init_from.empty()) from.model_dir = std::filesystem::path(arguments.init_from) / "model";
  engine.load(*open_weights(engine.arena(), from, job, engine.model().params()));
  return {};
}

int run_train(const TrainArguments& arguments, CommandSession& session) {
  job::JobConfig job = load(arguments);
  const RunDir run = RunDir::open({.output_dir = job.output_dir, .name = job.name, .fresh = arguments.fresh});
  if (run.moved_to()) spdlog::info("the earlier run is now {}", run.moved_to()->string());
  add_log_file(run.logs(), 0, session.log_level);
  check_resume(arguments, run, job);
  const int threads = apply_threads(job.threads);
  const JobSetup setup = [&] {
    JobSetup made = make_setup(job);
    made.data.threads = threads;
    return made;
  }();
  const auto tokenizer = open_tokenizer(setup.tokenizer, setup.model);
  const auto data = open_training_data(
      setup.data, *tokenizer, [](const std::string& w) { spdlog::warn("{}", w); },
      [&](const TokenizeProgress& p) {
        session.console->set_live_line(fmt::format("tokenising {} of {}", format_bytes(p.bytes_done),
                                                   format_bytes(p.bytes_total)));
      });
  session.console->end_live_line();
  const JobPlan plan = plan_job(setup, job, run_shape(job, *tokenizer));
  const std::int64_t steps = total_steps(job, setup, data->sampler());
  print_start(setup, plan, *tokenizer, *data, steps);
  job.training.micro_batch_size.value = plan.batch.micro_batch;
  job.threads.value = threads;
  const std::string resolved = job::resolved_job_text(job);

  remove_stale(run.checkpoints());
  const std::unique_ptr<FileEngine> files = make_file_engine();
  const std::optional<CheckpointReader> checkpoint = choose_checkpoint(arguments, run, {*files, {}});
  if (checkpoint && checkpoint_state(*checkpoint).step >= steps) {
    spdlog::info("{} is finished: {} steps done", run.path().string(), checkpoint_state(*checkpoint).step);
    return 0;
  }
  write_file_atomic(run.resolved_job(), resolved);
  run.record_start({.command_line = session.command_line, .version = thimble_version(),
                    .resumed_step = checkpoint ? std::optional(checkpoint->step()) : std::nullopt},
                   probe_machine());
  const std::int64_t tokens = plan.batch.micro_batch * setup.engine.seq_len;
  const SpeedOfLight light = measure_speed_of_light(
      setup.model, tokens, setup.engine.dtype, plan.batch.passes > 1 ? DType::kF32 : setup.engine.grad_dtype);

  const std::unique_ptr<Arena> arena = Arena::make_cpu(plan.memory.extent_bytes);
  Transformer model(setup.model);
  apply_freeze(job, model);
  const AdamW optimizer(setup.optimizer);
  EngineOptions options = setup.engine;
  options.accumulates = plan.batch.passes > 1;
  arena->begin_phase("load");
  TrainEngine engine(*arena, model, optimizer, options);
  const TrainState state = load_weights_of(engine, arguments, setup, job, checkpoint);
  RunLog log(run.path(), {.resumed_step = checkpoint ? std::optional(state.step) : std::nullopt,
                          .tensorboard = job.logging.tensorboard});
  install_stop_handlers();
  Trainer trainer({.job = job, .setup = setup, .plan = plan, .tokenizer = *tokenizer, .data = *data, .run = run,
                   .engine = engine, .files = *files, .log = log, .console = session.console, .total_steps = steps,
                   .light_seconds_per_pass = light.seconds_per_micro_batch(),
                   .model_config = model_config_json(setup.model, options.dtype == DType::kBF16 ? "bfloat16" : "float32"),
                   .resolved_job = resolved, .quiet = session.quiet},
                  state);
  return trainer.run() == TrainOutcome::kStopped ? kExitStopped : 0;
}

void add_job_arguments(CLI::App& app, JobArguments& arguments) {
  app.add_option("job", arguments.file, "Job file (TOML); `thimble help job` lists its keys")->required();
  app.add_option("--set", arguments.sets, "Override a key: --set optimizer.lr=1e-4 (repeatable)")->allow_extra_args(false);
}

}  // namespace

void add_train_command(CLI::App& app, CommandSession& session) {
  auto arguments = std::make_shared<TrainArguments>();
  CLI::App* train = app.add_subcommand("train", "Train the model a job file describes; continues an interrupted run");
  add_job_arguments(*train, *arguments);
  train->add_option("--resume", arguments->resume, "auto, never or must")->check(CLI::IsMember({"auto", "never", "must"}));
  train->add_option("--resume-from", arguments->resume_from, "Continue from this step's checkpoint");
  train->add_flag("--fresh", arguments->fresh, "Move the earlier run aside and start anew");
  train->add_option("--init-from", arguments->init_from, "Start from the weights of a finished run");
  train->footer("Examples:\n"
                "  thimble train examples/scratch-130m.toml\n"
                "  thimble train job.toml --set training.max_steps=200 --set optimizer.lr=1e-4\n"
                "Exit code 75: saved and stopped on a signal; the same command continues.");
  train->callback([arguments, &session] {
    session.start();
    session.exit_code = run_train(*arguments, session);
  });
}

void add_plan_command(CLI::App& app, CommandSession& session) {
  auto arguments = std::make_shared<JobArguments>();
  auto maximum = std::make_shared<std::string>();
  CLI::App* plan = app.add_subcommand("plan", "Say what memory and disk a job will take, without starting it");
  add_job_arguments(*plan, *arguments);
  plan->add_option("--max", *maximum, "Find the largest value that fits: seq_len or micro_batch_size")
      ->check(CLI::IsMember({"seq_len", "micro_batch_size"}));
  plan->add_flag("--json", arguments->json, "One JSON object");
  plan->footer("Examples:\n"
               "  thimble plan job.toml\n"
               "  thimble plan job.toml --max seq_len --set memory.budget=16GiB");
  plan->callback([arguments, maximum, &session] {
    session.start();
    run_plan(*arguments, *maximum);
  });
}

}  // namespace thimble
