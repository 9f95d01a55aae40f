#include "launcher/commands/train_rank.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>

#include "checkpoint/checkpoint_directory.h"
#include "checkpoint/checkpoint_source.h"
#include "core/base/text.h"
#include "core/io/file.h"
#include "launcher/commands/choose_checkpoint.h"
#include "launcher/commands/command.h"
#include "launcher/commands/offload_place.h"
#include "launcher/commands/prepare_rank.h"
#include "launcher/commands/recover_snapshots.h"
#include "launcher/commands/version.h"
#include "launcher/job/write_job.h"
#include "launcher/launch/rank_monitor.h"
#include "launcher/run/allocation.h"
#include "launcher/run/gpu_peaks.h"
#include "launcher/run/machine.h"
#include "launcher/run/rank_environment.h"
#include "launcher/run/signals.h"
#include "launcher/trainer/early_stopping.h"
#include "launcher/trainer/finished_run.h"
#include "launcher/trainer/snapshots.h"
#include "launcher/trainer/trainer.h"
#include "models/model_files.h"
#include "parallel/abort_on_error.h"
#include "parallel/collectives.h"
#include "plan/roofline.h"
#include "train/save_checkpoint.h"
#include "train/snapshot_room.h"

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

// What a batch system gives to the run; the leader says it.
std::optional<Allocation> allocation_of(bool leads) {
  const std::optional<Allocation> found = allocation(process_variables());
  if (leads && found) spdlog::info("{}", found->text());
  return found;
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

// Loads weights: of what was saved, of another run (weights only), or from the job's own source.
TrainState load_weights_of(AssembledEngine& assembled, const TrainArguments& arguments,
                           const TrainSpec& spec, const StateReader* saved,
                           const OffloadPlace& offload) {
  TrainEngine& engine = assembled.engine;
  const PhaseScope phase(engine.arena(), "load");
  const auto load_frozen = [&] {
    if (spec.adapter || spec.compressor) {
      assembled.load_frozen(*open_weights(engine.arena().pinned(), spec, assembled.model,
                                          assembled.compressor.get()));
    }
  };
  if (offload.is_recovered()) {
    const CommitRecord& record = *offload.run().recovered;
    if (engine.comm().rank() == 0)
      spdlog::info("resuming from the state of step {} on disk", record.step);
    load_frozen();
    return load_offloaded(engine, *assembled.offload, record);
  }
  if (saved != nullptr) {
    if (engine.comm().rank() == 0) spdlog::info("resuming from {}", saved->name());
    load_frozen();
    return load_checkpoint(engine, *saved);
  }
  const fs::path other = arguments.init_from;
  if (!other.empty() && spec.compressor && spec.compressor->kind == CompressorKind::kMatryoshka) {
    // What is trained turns the bases of compressor.path, which a resumed run reads again.
    throw_user("--init-from {}: with compressor.type = \"matryoshka\" give it by compressor.path",
               other.string());
  }
  if (!other.empty() && !fs::exists(other / "model")) {
    const std::unique_ptr<FileEngine> files = make_file_engine();
    std::vector<std::string> rejected;
    const auto newest = open_newest_valid(other / "checkpoints", {*files, {}}, rejected);
    if (!newest)
      throw_user("--init-from {}: it has neither an exported model nor a usable checkpoint",
                 other.string());
    load_frozen();
    CheckpointSource source(*newest, engine.arena().pinned());
    engine.load(source, LoadedWeights::kSaved);
    return {};
  }
  TrainSpec from = spec;
  if (!other.empty() && spec.adapter) {
    from.adapter_dir = other / "model";
  } else if (!other.empty() && spec.compressor) {
    from.compressor_dir = other / "model";
  } else if (!other.empty()) {
    from.model_dir = other / "model";
  }
  assembled.load(
      *open_weights(engine.arena().pinned(), from, assembled.model, assembled.compressor.get()));
  return {};
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
    remove_finished_state(p);
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

// Rank 0 writes down that the run starts, and from what.
void record_start(const RankSetting& rank, const Prepared& p, const std::string& resolved,
                  const StateReader* saved) {
  write_file_atomic(p.held->resolved_job(), resolved);
  p.held->record_start(
      {.command_line = rank.session.command_line,
       .version = thimble_version(),
       .resumed_step = saved != nullptr ? std::optional(saved->step()) : std::nullopt,
       .content = p.content},
      probe_machine());
}

// On rank 0. resumed_step: none for a run from its beginning.
std::optional<RunLog> open_log(bool leads, const Prepared& p,
                               std::optional<std::int64_t> resumed_step) {
  if (!leads) return std::nullopt;
  return std::optional<RunLog>(
      std::in_place, p.run,
      RunLog::Options{.resumed_step = resumed_step, .tensorboard = p.job.logging.tensorboard});
}

// Of a run that goes on.
std::optional<std::int64_t> resumed_step(const SavedRun& found, const OffloadPlace& offload,
                                         const TrainState& state) {
  const bool goes_on = found.saved != nullptr || offload.is_recovered();
  return goes_on ? std::optional(state.step) : std::nullopt;
}

// Seconds of one micro-batch's matmuls at their best rates.
double roofline_seconds(const TrainSpec& spec, const BatchPlan& batch) {
  const EngineOptions& options = spec.engine;
  return measure_roofline(spec.device, spec.model, batch.micro_batch * options.seq_len,
                          options.dtype, options.accumulates ? DType::kF32 : options.grad_dtype)
      .seconds_per_micro_batch();
}

// What makes what is saved usable on its own.
CheckpointIdentity identity_of(const Prepared& p, const std::string& resolved) {
  return {exported_config(p.spec.model, p.spec.engine.dtype, p.spec.source_config),
          p.spec.tokenizer.string(), resolved};
}

int run_trainer(Trainer& trainer, Communicator& comm, OffloadPlace& offload) {
  return abort_on_error(comm, [&] {
    try {
      const TrainOutcome outcome = trainer.run();
      offload.remove(comm);
      return outcome == TrainOutcome::kStopped ? kExitStopped : 0;
    } catch (const UserError& e) {
      // The job was checked before the first step: what fails now is the machine, and may pass.
      throw SystemError(e.what());
    }
  });
}

void warn_of_slow_disk(const AssembledEngine& assembled) {
  if (!assembled.offload) return;
  for (const std::string& why : assembled.offload->home()->why_slower())
    spdlog::warn("offload: {}", why);
}

std::unique_ptr<Arena> planned_arena(const RankSetting& rank, const Prepared& p) {
  rank.monitor.phase("load");
  return Arena::make(p.spec.device, p.plan.memory.extent_bytes, p.plan.memory.host_bytes);
}

std::function<DiskTraffic()> disk_traffic_of(const AssembledEngine& assembled) {
  if (!assembled.offload && assembled.activations == nullptr) return {};
  return [&assembled] { return assembled.disk_traffic(); };
}

void begin_preparing(const RankSetting& rank) {
  rank.comm.set_time_limit(kStartLimit);
  rank.monitor.phase("prepare");
  check_trace(rank.arguments.trace);
}

// Said as a stop signal arrives, below the live line of a terminal if there is one.
const char* stop_text() {
  constexpr const char* kText =
      "\nstopping: the running step is finished and saved first; a second signal ends the run at "
      "once\n";
  return ::isatty(STDERR_FILENO) == 1 ? kText : kText + 1;
}

// Everything between the first allocation and the first step.
void begin_training(const RankSetting& rank, Prepared& p, TrainEngine& engine) {
  const std::optional<std::int64_t> from = rank.arguments.resume_from;
  if (rank.comm.rank() == 0 && from) move_later_checkpoints_aside(p.run, *from);
  barrier(rank.comm, "the first step");
  if (p.fresh) p.fresh->keep();
  engine.comm().set_time_limit(step_limit());
  install_stop_handlers(rank.comm.rank() == 0 ? stop_text() : nullptr);
  engine.set_phase_hook([&monitor = rank.monitor](const char* name, bool begin) {
    if (begin) monitor.phase(name);
  });
}

}  // namespace

int train_rank(const RankSetting& rank) {
  const TrainArguments& arguments = rank.arguments;
  Communicator& comm = rank.comm;
  begin_preparing(rank);
  const bool leads = comm.rank() == 0;
  const std::optional<Allocation> batch = allocation_of(leads);
  Prepared p = prepare_rank(rank);
  const auto files = make_file_engine();
  SavedRun found(rank, p, {*files, {}});
  if (found.saved != nullptr && is_done(comm, p, checkpoint_state(*found.saved))) return 0;
  OffloadPlace offload(rank, p, found.step());
  const std::string resolved = job::resolved_job_text(p.job);
  if (leads) record_start(rank, p, resolved, found.saved);
  const double roofline_s = roofline_seconds(p.spec, p.plan.batch);
  const std::unique_ptr<Arena> arena = planned_arena(rank, p);
  AssembledEngine assembled(p.spec, *arena, comm, offload.run());
  if (leads) warn_of_slow_disk(assembled);
  TrainEngine& engine = assembled.engine;
  Reservation room = reserve_snapshots(engine, p.spec.snapshots);
  // From here on transfers between ranks may be under way when an error strikes.
  const TrainState state = abort_on_error(engine.comm(), [&] {
    return load_weights_of(assembled, arguments, p.spec, found.saved, offload);
  });
  std::optional<RunLog> log = open_log(leads, p, resumed_step(found, offload, state));
  begin_training(rank, p, engine);
  offload.keep();
  const CheckpointIdentity identity = identity_of(p, resolved);
  std::optional<Snapshots> snapshots =
      make_snapshots(rank, p, {engine, identity, std::move(room)}, std::move(found.memory));
  Trainer trainer({.job = p.job,
                   .spec = p.spec,
                   .plan = p.plan,
                   .tokenizer = *p.tokenizer,
                   .data = *p.data,
                   .run = p.run,
                   .engine = engine,
                   .model = assembled.model,
                   .compressor = assembled.compressor.get(),
                   .files = *files,
                   .offload = assembled.offload.get(),
                   .snapshots = snapshots ? &*snapshots : nullptr,
                   .disk_traffic = disk_traffic_of(assembled),
                   .saved_step = found.disk_step,
                   .is_recovered = offload.is_recovered() || found.is_from_memory,
                   .log = log ? &*log : nullptr,
                   .console = rank.session.console,
                   .total_steps = p.steps,
                   .roofline_seconds_per_micro_batch = roofline_s,
                   .peak_flops = p.gpu ? datasheet_bf16_flops(p.gpu->name) : std::nullopt,
                   .monitor = &rank.monitor,
                   .end_s = batch ? batch->end_s : std::nullopt,
                   .model_config = identity.model_config,
                   .resolved_job = resolved,
                   .trace = leads ? arguments.trace : "",
                   .same_command = same_command(arguments),
                   .quiet = rank.session.quiet},
                  state);
  return run_trainer(trainer, engine.comm(), offload);
}

}  // namespace thimble
