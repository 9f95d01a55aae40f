#include "launcher/commands/train_rank.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>

#include "checkpoint/checkpoint_directory.h"
#include "checkpoint/checkpoint_source.h"
#include "core/base/text.h"
#include "core/device/gpu.h"
#include "core/io/file.h"
#include "core/ops/op_observer.h"
#include "data/content_hash.h"
#include "launcher/commands/choose_checkpoint.h"
#include "launcher/commands/command.h"
#include "launcher/commands/new_run.h"
#include "launcher/commands/run_content.h"
#include "launcher/commands/tokenize_progress.h"
#include "launcher/commands/version.h"
#include "launcher/job/load_job.h"
#include "launcher/job/write_job.h"
#include "launcher/launch/rank_monitor.h"
#include "launcher/plan/speed_of_light.h"
#include "launcher/run/allocation.h"
#include "launcher/run/console.h"
#include "launcher/run/gpu_peaks.h"
#include "launcher/run/log.h"
#include "launcher/run/machine.h"
#include "launcher/run/rank_environment.h"
#include "launcher/run/signals.h"
#include "launcher/trainer/finished_run.h"
#include "launcher/trainer/trainer.h"
#include "models/model_files.h"
#include "parallel/abort_on_error.h"
#include "parallel/collectives.h"
#include "train/gpu_sharing.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// Until the first step ranks wait for one that tokenises or verifies: that may take hours. Then
// minutes.
constexpr auto kStartLimit = std::chrono::hours(24);
constexpr std::int64_t kStepLimitSeconds = 600;

std::chrono::seconds step_limit() {
  const char* text = std::getenv("THIMBLE_COMM_TIMEOUT_S");
  if (text == nullptr) return std::chrono::seconds(kStepLimitSeconds);
  const long seconds = std::strtol(text, nullptr, 10);
  if (seconds < 1)
    throw_user("THIMBLE_COMM_TIMEOUT_S='{}': allowed a number of seconds from 1", text);
  return std::chrono::seconds(seconds);
}

// Before hours of training, not after them.
void check_trace(const std::string& trace) {
  if (trace.empty()) return;
  const fs::path directory = fs::absolute(trace).parent_path();
  if (!fs::is_directory(directory))
    throw_user("--trace {}: its directory does not exist", printable(trace));
  if (::access(directory.c_str(), W_OK) != 0)
    throw_user("--trace {}: its directory cannot be written", printable(trace));
}

void print_start(const JobSetup& setup, const JobPlan& plan, const Tokenizer& tokenizer,
                 const TrainingData& data, std::int64_t steps) {
  for (const std::string& note : setup.model_notes) spdlog::warn("{}", note);
  spdlog::info("plan\n{}", plan_text(setup, plan));
  const auto id = [](const std::optional<std::int32_t>& value) {
    return value ? std::to_string(*value) : std::string("none");
  };
  spdlog::info("tokenizer {}: BOS {}, EOS {}, PAD {}", tokenizer.name(), id(tokenizer.bos_id()),
               id(tokenizer.eos_id()), id(tokenizer.pad_id()));
  spdlog::info("data: {}", summary_text(data.summary()));
  spdlog::info("{} steps of {} positions", steps, plan.batch.sequences * setup.engine.seq_len);
}

// Loads weights: from a checkpoint, from another run (weights only), or from the job's own source.
TrainState load_weights_of(TrainEngine& engine, const TrainArguments& arguments,
                           const JobSetup& setup, const job::JobConfig& job,
                           const std::optional<CheckpointReader>& checkpoint) {
  const PhaseScope phase(engine.arena(), "load");
  if (checkpoint) {
    if (engine.comm().rank() == 0) spdlog::info("resuming from {}", checkpoint->path().string());
    return load_checkpoint(engine, *checkpoint);
  }
  const fs::path other = arguments.init_from;
  if (!other.empty() && !fs::exists(other / "model")) {
    const std::unique_ptr<FileEngine> files = make_file_engine();
    std::vector<std::string> rejected;
    const auto newest = open_newest_valid(other / "checkpoints", {*files, {}}, rejected);
    if (!newest)
      throw_user("--init-from {}: it has neither an exported model nor a usable checkpoint",
                 other.string());
    CheckpointSource source(*newest, engine.arena().pinned());
    engine.load(source);
    return {};
  }
  JobSetup from = setup;
  if (!other.empty()) from.model_dir = other / "model";
  engine.load(*open_weights(engine.arena().pinned(), from, job, engine.model().params()));
  return {};
}

// Refuses ranks that were started with different jobs or programs.
void check_same_job(Communicator& comm, const job::JobConfig& job) {
  ContentHash hash;
  hash.add(job::resolved_job_text(job));
  hash.add(thimble_version());
  hash.add(build_commit());
  const std::uint64_t mine = hash.value64();
  const auto all = all_gather_control(comm, "the job", std::as_bytes(std::span(&mine, 1)));
  std::vector<std::uint64_t> hashes(static_cast<std::size_t>(comm.size()));
  std::memcpy(hashes.data(), all.data(), all.size());
  for (std::size_t r = 1; r < hashes.size(); ++r) {
    if (hashes[r] != hashes[0])
      throw_user("rank {} was started with another job or another build than rank 0", r);
  }
}

// Rank 0 leaves a file in the run directory, and every rank must find it there.
void check_shared(Communicator& comm, const fs::path& run) {
  if (comm.size() == 1) return;
  const std::int64_t token =
      from_leader(comm, "the run directory", comm.rank() == 0 ? steady_now_ns() : 0);
  const fs::path file = run / fmt::format(".shared-{}", token);
  if (comm.rank() == 0) write_file_atomic(file, "");
  barrier(comm, "the run directory");
  if (!fs::exists(file)) {
    throw_user(
        "rank {} does not see the run directory {} of rank 0: output_dir must be on storage that "
        "all hosts share",
        comm.rank(), run.string());
  }
  barrier(comm, "the run directory");
  if (comm.rank() == 0) fs::remove(file);
}

// What all ranks have agreed on before the first allocation.
struct Prepared {
  job::JobConfig job;
  JobSetup setup;
  std::optional<GpuInfo> gpu;
  int on_gpu = 1;                 // ranks that share it  // of this rank
  std::optional<RunDir> held;     // of rank 0, as the three that follow
  std::unique_ptr<NewRun> fresh;  // gone before the lock is
  job::ResumeDiff job_change;
  std::vector<std::pair<std::string, std::string>> content;
  fs::path run;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<TrainingData> data;
  JobPlan plan;
  std::int64_t steps = 0;
};

void open_run(const TrainArguments& arguments, CommandSession& session, Communicator& comm,
              RankMonitor& monitor, bool owns_process, Prepared& p) {
  p.run = fs::path(p.job.output_dir) / p.job.name;
  if (comm.rank() == 0) {
    p.fresh = std::make_unique<NewRun>(p.run);
    p.held.emplace(RunDir::open(
        {.output_dir = p.job.output_dir, .name = p.job.name, .fresh = arguments.fresh}));
    p.fresh->opened(p.held->moved_to());
    if (p.held->moved_to()) spdlog::info("the earlier run is now {}", p.held->moved_to()->string());
  }
  barrier(comm, "the run directory");
  check_shared(comm, p.run);
  if (comm.rank() == 0 || owns_process)
    add_log_file(p.run / "logs", comm.rank(), session.log_level);
  if (comm.size() > 1 && owns_process) monitor.record_in(p.run / "logs");
  if (comm.rank() == 0) p.job_change = check_job_of_run(*p.held, p.job);
}

// Rank 0 tokenises what is not in the cache yet; the others find it there.
void open_data(CommandSession& session, Communicator& comm, Prepared& p) {
  p.tokenizer = open_tokenizer(p.setup.tokenizer, p.setup.model);
  const bool leads = comm.rank() == 0;
  const auto open = [&] {
    const auto warn = [leads](const std::string& w) {
      if (leads) spdlog::warn("{}", w);
    };
    p.data = open_training_data(p.setup.data, *p.tokenizer, warn,
                                leads ? tokenize_progress(session) : ProgressFn());
  };
  if (leads) {
    open();
    session.console->end_live_line();
    p.content = content_of(p.setup, *p.tokenizer, *p.data);
    check_content_of_run(*p.held, p.job_change, p.content);
  }
  barrier(comm, "the data");
  if (!leads) open();
}

Prepared prepare(const TrainArguments& arguments, CommandSession& session, Communicator& comm,
                 RankMonitor& monitor, int ranks_on_node, bool owns_process) {
  const bool leads = comm.rank() == 0;
  Prepared p;
  p.job = load_job_arguments(arguments, leads);
  check_same_job(comm, p.job);
  auto& job = p.job;
  const bool any_micro = !job.training.micro_batch_size.value;
  const bool any_stage = !job.parallelism.zero_stage.value;
  open_run(arguments, session, comm, monitor, owns_process, p);
  // What the run was resolved to before, rank 0 has adopted; the others follow it.
  const auto follow = [&](const char* what, std::optional<std::int64_t>& value) {
    const std::int64_t decided = from_leader(comm, what, value.value_or(-1));
    value = decided < 0 ? std::nullopt : std::optional(decided);
  };
  follow("the micro-batch", job.training.micro_batch_size.value);
  follow("the stage", job.parallelism.zero_stage.value);
  if (comm.size() > 1)
    job.threads.value.reset();  // another share of the machine than the run had before
  const int threads = apply_threads(job.threads, ranks_on_node);
  p.setup = make_setup(job);
  p.setup.data.threads = threads;
  if (p.setup.device == DeviceKind::kGpu) {
    const std::optional<RankEnvironment> launched = rank_environment(process_variables());
    p.gpu = choose_gpu(launched ? launched->local_rank : comm.rank());
    p.on_gpu = ranks_on_a_gpu(comm);
    if (leads) spdlog::info("{}, {}", p.gpu->name, format_bytes(p.gpu->total_bytes));
  }
  open_data(session, comm, p);
  RankPlace place{.rank = comm.rank(),
                  .ranks = comm.size(),
                  .ranks_on_node = ranks_on_node,
                  .on_gpu = p.on_gpu,
                  .here = false};
  if (any_micro || any_stage) {
    p.plan = plan_job(p.setup, job, run_shape(job, *p.tokenizer), place);
    if (from_leader(comm, "whether it fits", p.plan.fits ? 1 : 0) == 0) {
      // Fewer ranks than before hold more each.
      if (any_micro) job.training.micro_batch_size.value.reset();
      if (any_stage) job.parallelism.zero_stage.value.reset();
      p.setup = make_setup(job);
      p.setup.data.threads = threads;
    }
  }
  place.here = true;
  p.plan = plan_job(p.setup, job, run_shape(job, *p.tokenizer), place);
  // Ranks on hosts with less memory than rank 0's would find other answers.
  job.training.micro_batch_size.value =
      from_leader(comm, "the micro-batch", p.plan.batch.micro_batch);
  if (comm.size() > 1)
    job.parallelism.zero_stage.value = from_leader(comm, "the stage", p.plan.zero_stage);
  p.setup = make_setup(job);
  p.setup.data.threads = threads;
  p.plan = plan_job(p.setup, job, run_shape(job, *p.tokenizer), place);
  if (comm.size() == 1)
    job.threads.value = threads;  // a rank's share says nothing about another number of ranks
  p.steps = total_steps(job, p.setup, p.data->sampler());
  if (leads) print_start(p.setup, p.plan, *p.tokenizer, *p.data, p.steps);
  return p;
}

// Trained and exported; what is only trained is exported by going on.
bool is_done(Communicator& comm, const Prepared& p, const TrainState& state) {
  const bool trained = state.step >= p.steps || is_stopped_early(p.job, state);
  std::optional<FinishedRun> finished;
  if (trained && comm.rank() == 0) finished = read_finished(p.run);
  const bool exported = finished && finished->step == state.step &&
                        finished->wanted_step == exported_step(p.job, state);
  if (from_leader(comm, "whether it is finished", exported ? 1 : 0) == 0) return false;
  if (comm.rank() == 0) {
    spdlog::info("{} is {}: {} steps done; model/ has the weights of step {}", p.run.string(),
                 finished->reason, finished->step, finished->exported_step);
  }
  return true;
}

// What continues this run once it is stopped.
std::string same_command(const TrainArguments& arguments) {
  std::string text = "the same command";
  if (arguments.fresh) text += " without --fresh";
  if (arguments.resume_from) text += " without --resume-from";
  if (arguments.resume == "never") text += " without --resume never";
  return text;
}

}  // namespace

int train_rank(const TrainArguments& arguments, CommandSession& session, Communicator& comm,
               RankMonitor& monitor, int ranks_on_node, bool owns_process) {
  comm.set_time_limit(kStartLimit);
  monitor.phase("prepare");
  check_trace(arguments.trace);
  const bool leads = comm.rank() == 0;
  const std::optional<Allocation> batch = allocation(process_variables());
  if (leads && batch) spdlog::info("{}", batch->text());
  Prepared p = prepare(arguments, session, comm, monitor, ranks_on_node, owns_process);
  const std::unique_ptr<FileEngine> files = make_file_engine();
  const std::optional<CheckpointReader> checkpoint =
      agree_on_checkpoint(arguments, comm, p.run, {*files, {}});
  if (checkpoint && is_done(comm, p, checkpoint_state(*checkpoint))) return 0;
  const std::string resolved = job::resolved_job_text(p.job);
  if (leads) {
    write_file_atomic(p.held->resolved_job(), resolved);
    p.held->record_start(
        {.command_line = session.command_line,
         .version = thimble_version(),
         .resumed_step = checkpoint ? std::optional(checkpoint->step()) : std::nullopt,
         .content = p.content},
        probe_machine());
  }
  EngineOptions options = p.setup.engine;
  options.ranks_on_gpu = p.on_gpu;
  options.accumulates = p.plan.batch.accumulation_steps > 1;
  options.zero_stage = p.plan.zero_stage;
  const SpeedOfLight light = measure_speed_of_light(
      p.setup.device, p.setup.model, p.plan.batch.micro_batch * options.seq_len, options.dtype,
      options.accumulates ? DType::kF32 : options.grad_dtype);

  const std::unique_ptr<Arena> arena =
      Arena::make(p.setup.device, p.plan.memory.extent_bytes, p.plan.memory.host_bytes);
  Transformer model(p.setup.model);
  apply_freeze(p.job, model);
  const OptimizerGroups optimizer = make_optimizer(p.job, model.params());
  arena->begin_phase("load");
  monitor.phase("load");
  TrainEngine engine(*arena, model, optimizer, options, comm);
  // From here on transfers between ranks may be under way when an error strikes.
  const TrainState state = abort_on_error(engine.comm(), [&] {
    return load_weights_of(engine, arguments, p.setup, p.job, checkpoint);
  });
  std::optional<RunLog> log;
  if (leads) {
    log.emplace(p.run, RunLog::Options{
                           .resumed_step = checkpoint ? std::optional(state.step) : std::nullopt,
                           .tensorboard = p.job.logging.tensorboard});
    if (arguments.resume_from) move_later_checkpoints_aside(p.run, *arguments.resume_from);
  }
  barrier(comm, "the first step");
  if (p.fresh) p.fresh->keep();
  engine.comm().set_time_limit(step_limit());
  install_stop_handlers();
  engine.set_phase_hook([&monitor](const char* name, bool begin) {
    if (begin) monitor.phase(name);
  });
  Trainer trainer(
      {.job = p.job,
       .setup = p.setup,
       .plan = p.plan,
       .tokenizer = *p.tokenizer,
       .data = *p.data,
       .run = p.run,
       .engine = engine,
       .model = model,
       .files = *files,
       .log = log ? &*log : nullptr,
       .console = session.console,
       .total_steps = p.steps,
       .light_seconds_per_micro_batch = light.seconds_per_micro_batch(),
       .peak_flops = p.gpu ? datasheet_bf16_flops(p.gpu->name) : std::nullopt,
       .monitor = &monitor,
       .end_s = batch ? batch->end_s : std::nullopt,
       .model_config = exported_config(p.setup.model, options.dtype, p.setup.source_config),
       .resolved_job = resolved,
       .trace = leads ? arguments.trace : "",
       .same_command = same_command(arguments),
       .quiet = session.quiet},
      state);
  return abort_on_error(engine.comm(), [&] {
    try {
      return trainer.run() == TrainOutcome::kStopped ? kExitStopped : 0;
    } catch (const UserError& e) {
      // The job was checked before the first step: what fails now is the machine, and may pass.
      throw SystemError(e.what());
    }
  });
}

}  // namespace thimble
