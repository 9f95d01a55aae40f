#include "launcher/commands/prepare_rank.h"

#include <spdlog/spdlog.h>

#include <array>
#include <cmath>
#include <cstring>

#include "core/io/file.h"
#include "core/ops/matmul_path.h"
#include "core/ops/op_observer.h"
#include "data/content_hash.h"
#include "launcher/commands/checkpoint_room.h"
#include "launcher/commands/choose_checkpoint.h"
#include "launcher/commands/command.h"
#include "launcher/commands/run_content.h"
#include "launcher/commands/tokenize_progress.h"
#include "launcher/commands/version.h"
#include "launcher/job/load_job.h"
#include "launcher/job/write_job.h"
#include "launcher/launch/rank_monitor.h"
#include "launcher/plan/host_share.h"
#include "launcher/plan/job_plan.h"
#include "launcher/plan/job_setup.h"
#include "launcher/plan/machine_rates.h"
#include "launcher/run/console.h"
#include "launcher/run/log.h"
#include "launcher/run/rank_environment.h"
#include "launcher/trainer/job_length.h"
#include "parallel/collectives.h"
#include "train/gpu_sharing.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

void print_start(const Prepared& p) {
  const TrainSpec& spec = p.spec;
  const Tokenizer& tokenizer = *p.tokenizer;
  for (const std::string& note : spec.model_notes) spdlog::warn("{}", note);
  spdlog::info("plan\n{}{}", plan_text(spec, p.plan), host_text(p.plan, p.update_rates));
  const auto id = [](const std::optional<std::int32_t>& value) {
    return value ? std::to_string(*value) : std::string("none");
  };
  spdlog::info("tokenizer {}: BOS {}, EOS {}, PAD {}", tokenizer.name(), id(tokenizer.bos_id()),
               id(tokenizer.eos_id()), id(tokenizer.pad_id()));
  for (const std::string& source : p.data->summary().sources) spdlog::info("data: {}", source);
  spdlog::info("data: {}", summary_text(p.data->summary()));
  spdlog::info(
      "{} steps of {} positions; sol (speed of light): the time of a step's matmuls at their best "
      "rates, as a fraction of the step's time",
      p.steps, p.plan.batch.sequences * spec.engine.seq_len);
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

void open_run(const RankSetting& rank, Prepared& p) {
  Communicator& comm = rank.comm;
  p.run = fs::path(p.job.output_dir) / p.job.name;
  if (comm.rank() == 0) {
    p.fresh = std::make_unique<NewRun>(p.run);
    p.held.emplace(RunDir::open(
        {.output_dir = p.job.output_dir, .name = p.job.name, .fresh = rank.arguments.fresh}));
    p.fresh->opened(p.held->moved_to());
    if (p.held->moved_to()) spdlog::info("the earlier run is now {}", p.held->moved_to()->string());
  }
  barrier(comm, "the run directory");
  check_shared(comm, p.run);
  if (comm.rank() == 0 || rank.owns_process)
    add_log_file(p.run / "logs" / fmt::format("rank-{}.log", comm.rank()), rank.session.log_level);
  if (comm.size() > 1 && rank.owns_process) rank.monitor.record_in(p.run / "logs");
  if (comm.rank() == 0) p.job_change = check_job_of_run(*p.held, p.job);
}

// Rank 0 tokenises what is not in the cache yet; the others find it there.
void open_data(const RankSetting& rank, Prepared& p) {
  Communicator& comm = rank.comm;
  p.tokenizer = open_tokenizer(p.spec.tokenizer, p.spec.model);
  const bool leads = comm.rank() == 0;
  const auto open = [&] {
    const auto warn = [leads](const std::string& w) {
      if (leads) spdlog::warn("{}", w);
    };
    p.data = open_training_data(p.spec.data, *p.tokenizer, warn,
                                leads ? tokenize_progress(rank.session) : ProgressFn());
  };
  if (leads) {
    open();
    rank.session.console->end_live_line();
    p.content = content_of(p.spec, *p.tokenizer, *p.data);
    check_content_of_run(*p.held, p.job_change, p.content);
  }
  barrier(comm, "the data");
  if (!leads) open();
}

// The keys that say where parts of the training state are.
struct PlaceKey {
  const char* what;
  job::Auto<job::StatePlace>* place;
};
std::array<PlaceKey, 3> places_of(job::OffloadConfig& offload) {
  return {PlaceKey{"where state is", &offload.state},
          {"where gradients are", &offload.gradients},
          {"where weights are", &offload.weights}};
}

constexpr const char *kWhereActivations = "where activations are",
                     *kWhatAgain = "what is computed again",
                     *kWhichOrder = "the order of micro-batches",
                     *kGpuShare = "the GPU's share of updates";

// A choice is what rank 0 has.
template <typename Enum>
void follow_choice(Communicator& comm, const char* what, job::Auto<Enum>& choice) {
  const std::int64_t mine = choice.value ? static_cast<std::int64_t>(*choice.value) : -1,
                     decided = from_leader(comm, what, mine);
  choice.value.reset();
  if (decided >= 0) choice.value = static_cast<Enum>(decided);
}

// In thousandths on the way.
void follow_share(Communicator& comm, const char* what, std::optional<double>& share) {
  const std::int64_t decided = from_leader(comm, what, share ? std::llround(1000 * *share) : -1);
  share.reset();
  if (decided >= 0) share = static_cast<double>(decided) / 1000;
}

// What the run was resolved to before, rank 0 has adopted; the others follow it.
void follow_leader(Communicator& comm, job::JobConfig& job) {
  const auto follow = [&](const char* what, std::optional<std::int64_t>& value) {
    const std::int64_t decided = from_leader(comm, what, value.value_or(-1));
    value = decided < 0 ? std::nullopt : std::optional(decided);
  };
  follow("the micro-batch", job.training.micro_batch_size.value);
  follow("the stage", job.parallelism.zero_stage.value);
  for (const auto& [what, place] : places_of(job.offload)) follow_choice(comm, what, *place);
  follow_choice(comm, kWhereActivations, job.offload.activations);
  follow_choice(comm, kWhatAgain, job.memory.recompute);
  follow_share(comm, kWhatAgain, job.memory.recompute_share);
  follow_share(comm, kGpuShare, job.offload.gpu_share);
  follow_choice(comm, kWhichOrder, job.training.accumulation_order);
  if (comm.size() > 1)
    job.threads.value.reset();  // another share of the machine than the run had before
}

void open_gpu(Communicator& comm, Prepared& p, RankPlace& place) {
  if (p.spec.device != DeviceKind::kGpu) return;
  const std::optional<RankEnvironment> launched = rank_environment(process_variables());
  p.gpu = choose_gpu(launched ? launched->local_rank : comm.rank());
  place.on_gpu = ranks_on_a_gpu(comm);
  if (comm.rank() == 0) spdlog::info("{}, {}", p.gpu->name, format_bytes(p.gpu->total_bytes));
}

// The paths that every rank's CPU has, a bit each.
unsigned common_matmul_paths(Communicator& comm) {
  std::uint8_t mine = 0;
  for (const MatmulPath path : kMatmulPaths) {
    if (has_matmul_path(path))
      mine = static_cast<std::uint8_t>(mine | 1u << static_cast<int>(path));
  }
  unsigned common = mine;
  const auto all = all_gather_control(comm, "the matmul paths", std::as_bytes(std::span(&mine, 1)));
  for (const std::byte of_rank : all) common &= static_cast<unsigned>(of_rank);
  return common;
}

// How bf16 is multiplied, the same on all ranks: as the run did before, else by the instructions
// that rank 0 finds to be the fastest, if all ranks have them.
void settle_matmul_path(Communicator& comm, bool chosen_by_user, job::JobConfig& job) {
  std::optional<MatmulPath>& path = job.training.matmul.value;
  if (job.device != DeviceKind::kCpu) return;
  if (!chosen_by_user && job.model.dtype == DType::kF32) return;  // there is one way
  const unsigned common = common_matmul_paths(comm);
  const auto all_have = [&](MatmulPath p) { return (common >> static_cast<int>(p) & 1u) != 0; };
  if (chosen_by_user && !all_have(*path)) {
    throw_user("training.matmul = \"{}\": not every rank's CPU has it; this one's is {}",
               path_name(*path), cpu_isa());
  }
  const MatmulPath fastest = all_have(matmul_path()) ? matmul_path() : MatmulPath::kF32;
  if (comm.rank() == 0 && path && !all_have(*path)) {
    spdlog::warn(
        "the run multiplied bf16 by the path '{}', which a CPU of this run lacks: '{}' goes on, "
        "with other last bits",
        path_name(*path), path_name(fastest));
    path.reset();
  }
  path = static_cast<MatmulPath>(
      from_leader(comm, "the matmul path", static_cast<std::int64_t>(path.value_or(fastest))));
  set_matmul_path(*path);
}

// The spec of the job as it is now.
void read_spec(Prepared& p, int threads) {
  p.spec = make_spec(p.job);
  p.spec.data.threads = threads;
  if (p.tokenizer) p.spec.sample_prompt_tokens = sample_prompt_tokens(p.job, *p.tokenizer);
}

// Which values of the job were "auto" when it was loaded.
struct OpenValues {
  bool micro_batch, zero_stage, matmul, cache, activations, recompute, recompute_share, order;
  std::array<bool, 3> places{};  // of places_of()
  bool any_choice() const {
    return activations || recompute || order || places[0] || places[1] || places[2];
  }
};

// What the leader chooses by.
Rates choice_rates(Communicator& comm, const RankPlace& place, const Prepared& p) {
  if (comm.rank() != 0 || !p.spec.any_recompute) return {};
  return {.flops_per_s = matmul_rate_here(p.spec.device, p.spec.engine.dtype).value,
          .disk_bytes_per_s = disk_rate_here(p.job).value / place.ranks_on_node};
}

// How much of the updates beside state on its host the GPU has: as the leader measures, unless the
// job or the run says it.
void settle_gpu_share(Communicator& comm, Prepared& p) {
  std::optional<double>& share = p.job.offload.gpu_share;
  if (p.job.offload.state.value != job::StatePlace::kHost) {
    share.reset();
    return;
  }
  // All at once, for they share the host's memory.
  barrier(comm, kGpuShare);
  if (const auto measured = measured_gpu_share(p.job, p.plan, p.update_rates)) share = measured;
  follow_share(comm, kGpuShare, share);
}

job::StatePlace place_of(bool on_disk, bool on_host) {
  return on_disk   ? job::StatePlace::kSsd
         : on_host ? job::StatePlace::kHost
                   : job::StatePlace::kMemory;
}

// Settles micro-batch, ZeRO stage and what is elsewhere, the same on all ranks: as the run had it
// before if that still fits, as rank 0 finds it otherwise.
void agree_on_plan(Communicator& comm, const RankPlace& place, const OpenValues& open, int threads,
                   Prepared& p) {
  job::JobConfig& job = p.job;
  const Rates rates = choice_rates(comm, place, p);
  if (open.micro_batch || open.zero_stage || open.any_choice()) {
    p.plan = plan_job(p.spec, job, place, IfTooLarge::kReport, rates);
    if (from_leader(comm, "whether it fits", p.plan.fits ? 1 : 0) == 0) {
      // Fewer ranks than before hold more each.
      if (open.micro_batch) job.training.micro_batch_size.value.reset();
      if (open.zero_stage) job.parallelism.zero_stage.value.reset();
      for (std::size_t i = 0; i < open.places.size(); ++i) {
        if (open.places[i]) places_of(job.offload)[i].place->value.reset();
      }
      if (open.activations) job.offload.activations.value.reset();
      if (open.order) job.training.accumulation_order.value.reset();
      if (open.recompute) job.memory.recompute.value.reset();
      if (open.recompute_share) job.memory.recompute_share.reset();
      read_spec(p, threads);
    }
  }
  p.plan = plan_job(p.spec, job, place, IfTooLarge::kRefuse, rates);
  // Ranks on nodes with less memory than rank 0's would find other answers.
  job.training.micro_batch_size.value =
      from_leader(comm, "the micro-batch", p.plan.batch.micro_batch);
  if (comm.size() > 1)
    job.parallelism.zero_stage.value = from_leader(comm, "the stage", p.plan.zero_stage);
  const OffloadedParts& found = p.plan.offload;
  const std::array places{place_of(found.state, found.host_state),
                          place_of(found.gradients, found.host_gradients),
                          place_of(found.weights, false)};
  for (std::size_t i = 0; i < places.size(); ++i) {
    const PlaceKey key = places_of(job.offload)[i];
    key.place->value = places[i];
    follow_choice(comm, key.what, *key.place);
  }
  settle_gpu_share(comm, p);
  job.offload.activations.value = p.plan.activations.place;
  follow_choice(comm, kWhereActivations, job.offload.activations);
  job.training.accumulation_order.value =
      p.plan.by_layers ? job::AccumulationOrder::kLayers : job::AccumulationOrder::kMicroBatches;
  follow_choice(comm, kWhichOrder, job.training.accumulation_order);
  job.memory.recompute.value = p.plan.recompute;
  follow_choice(comm, kWhatAgain, job.memory.recompute);
  if (open.recompute_share) {
    job.memory.recompute_share = p.plan.recompute_share;
    follow_share(comm, kWhatAgain, job.memory.recompute_share);
  }
  read_spec(p, threads);
  p.plan = plan_job(p.spec, job, place, IfTooLarge::kRefuse);
  p.spec = settled(std::move(p.spec), p.plan, place);
  if (p.plan.offload.state) job.offload.cache.value = {p.plan.cache_bytes};
}

}  // namespace

Prepared prepare_rank(const RankSetting& rank) {
  Communicator& comm = rank.comm;
  const bool leads = comm.rank() == 0;
  Prepared p;
  p.job = load_job_arguments(rank.arguments, leads);
  check_same_job(comm, p.job);
  OpenValues open{
      .micro_batch = !p.job.training.micro_batch_size.value,
      .zero_stage = !p.job.parallelism.zero_stage.value,
      .matmul = !p.job.training.matmul.value,
      .cache = p.job.offload.cache.is_auto(),
      .activations = p.job.offload.activations.is_auto(),
      .recompute = p.job.memory.recompute.is_auto(),
      .recompute_share = p.job.memory.recompute.is_auto() && !p.job.memory.recompute_share,
      .order = p.job.training.accumulation_order.is_auto()};
  for (std::size_t i = 0; i < open.places.size(); ++i)
    open.places[i] = places_of(p.job.offload)[i].place->is_auto();
  open_run(rank, p);
  if (open.cache) p.job.offload.cache.value.reset();  // what this machine has left now
  follow_leader(comm, p.job);
  settle_matmul_path(comm, !open.matmul, p.job);
  const int threads = apply_threads(p.job.threads, rank.ranks_on_node);
  read_spec(p, threads);
  RankPlace place{.rank = comm.rank(), .ranks = comm.size(), .ranks_on_node = rank.ranks_on_node};
  open_gpu(comm, p, place);
  open_data(rank, p);
  p.spec.sample_prompt_tokens = sample_prompt_tokens(p.job, *p.tokenizer);
  agree_on_plan(comm, place, open, threads, p);
  if (comm.size() == 1)
    p.job.threads.value = threads;  // a rank's share says nothing about another number of ranks
  p.steps = total_steps(p.job, p.spec, p.data->sampler());
  if (leads) print_start(p);
  // With state on disk its own place answers for the room.
  if (leads && !p.plan.offload.state)
    require_checkpoint_room(p.run, p.job, checkpoint_room(p.job, p.steps, p.plan.checkpoint_bytes));
  return p;
}

}  // namespace thimble
