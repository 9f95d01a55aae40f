#include "launcher/commands/bench_train.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/base/threads.h"
#include "core/device/gpu.h"
#include "core/ops/matmul_path.h"
#include "core/ops/op_observer.h"
#include "launcher/commands/bench_batch.h"
#include "launcher/commands/bench_offload.h"
#include "launcher/commands/command.h"
#include "launcher/commands/mpi_rank.h"
#include "launcher/commands/version.h"
#include "launcher/run/gpu_peaks.h"
#include "launcher/run/machine.h"
#include "launcher/run/rank_environment.h"
#include "launcher/trainer/op_profile.h"
#include "models/weight_sources.h"
#include "parallel/mpi_world.h"
#include "parallel/planning_communicator.h"
#include "plan/roofline.h"
#include "train/assembled_engine.h"
#include "train/memory_report.h"

namespace thimble {
namespace {

constexpr double kLearningRate = 1e-4;

struct TrainBench {
  std::string size = "130m";
  std::int64_t batch = 4, seq = 512, accumulation = 1, steps = 12, warmup = 6;
  std::string dtype = "bf16", recompute = "none", trace, device = "cpu";
  std::string comm_dtype = "bf16", matmul = "auto";
  std::string optimizer = "adamw", fallback = "adamw", master = "fp32", state_dtype = "fp32";
  std::optional<std::int64_t> rank;
  bool fused = false, by_layers = false;
  bool no_graphs = false, fp8 = false;
  int threads = 0, zero_stage = 1;
  OffloadBench offload;
  bool json = false, profile = false;
};

DeviceKind device_of(const TrainBench& b) {
  return b.device == "cpu" ? DeviceKind::kCpu : DeviceKind::kGpu;
}

Recompute recompute_of(const std::string& name) {
  return name == "full"        ? Recompute::kFull
         : name == "selective" ? Recompute::kSelective
                               : Recompute::kNone;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

EngineOptions engine_options(const TrainBench& b) {
  const DType dtype = b.dtype == "bf16" ? DType::kBF16 : DType::kF32;
  return {.dtype = dtype,
          .fp8 = b.fp8,
          .grad_dtype = dtype,
          .recompute = recompute_of(b.recompute),
          .accumulates = b.accumulation > 1,
          .by_layers = b.by_layers,
          .zero_stage = b.zero_stage,
          .comm_dtype = b.comm_dtype == "bf16" ? DType::kBF16 : DType::kF32,
          .clip_mode = b.fused ? ClipMode::kLagged : ClipMode::kExact,
          .fused_backward = b.fused,
          .master = b.master == "fp32"      ? MasterFormat::kF32
                    : b.master == "split16" ? MasterFormat::kSplit
                                            : MasterFormat::kNone,
          .seq_len = b.seq,
          .graphs = !b.no_graphs};
}

OptimizerSpec optimizer_spec(const TrainBench& b) {
  GroupSettings main{
      .label = "--optimizer", .match = "", .optimizer = {.name = b.optimizer}, .lr = kLearningRate};
  main.optimizer.rank = b.rank;
  main.optimizer.low_precision = b.dtype == "bf16";
  main.optimizer.adam.state = b.state_dtype == "bf16"   ? StateFormat::kBF16
                              : b.state_dtype == "8bit" ? StateFormat::k8Bit
                                                        : StateFormat::kF32;
  GroupSettings fallback = main;
  fallback.optimizer.name = b.fallback;
  fallback.optimizer.rank.reset();
  return {.main = std::move(main), .fallback = std::move(fallback), .groups = {}};
}

TrainSpec spec_of(const TrainBench& b) {
  const auto config = named_model_config(b.size);
  if (!config) throw_user("--size '{}': allowed {}", b.size, model_config_names());
  TrainSpec spec;
  spec.device = device_of(b);
  spec.model = *config;
  spec.optimizer = optimizer_spec(b);
  spec.engine = engine_options(b);
  spec.offload = offload_spec(b.offload);
  return spec;
}

// Random weights of a fixed seed, on an arena that may be a planning one.
void load(AssembledEngine& assembled) {
  InitSource source(0, assembled.model.config().init_std, assembled.model.config().unit_norms);
  assembled.engine.load(source);
  assembled.engine.arena().begin_phase("step");
}

// This rank's sequences of a step, which is the same work whatever the number of ranks.
std::vector<Batch> step_batches(const TrainBench& b, const ModelConfig& config, std::int64_t step,
                                const Communicator& comm) {
  std::vector<Batch> batches;
  const std::int64_t rows = b.batch / comm.size();
  for (std::int64_t i = 0; i < b.accumulation; ++i) {
    const std::int64_t index = (step * b.accumulation + i) * comm.size() + comm.rank();
    batches.push_back(random_batch(config, rows, b.seq, index));
  }
  return batches;
}

MemoryReport plan(const TrainBench& b, const TrainSpec& spec, const Communicator& comm) {
  const std::unique_ptr<Arena> arena = Arena::make_planning(spec.device);
  PlanningCommunicator planned(comm.rank(), comm.size());
  AssembledEngine assembled(spec, *arena, planned);
  load(assembled);
  for (const std::int64_t step : {0, 1})
    assembled.engine.step(step_batches(b, spec.model, step, planned), step + 1, kLearningRate);
  return memory_report(*arena);
}

void print_result(const TrainBench& b, const nlohmann::ordered_json& result,
                  const MemoryReport& planned, const MemoryReport& measured,
                  const OpProfile* profile) {
  if (b.json) {
    fmt::print("{}\n", result.dump());
  } else {
    for (const auto& [key, value] : result.items()) fmt::print("{:<22} {}\n", key, value.dump());
    fmt::print("\nplanned\n{}\nmeasured\n{}", to_table(planned), to_table(measured));
  }
  if (profile != nullptr) fmt::print(stderr, "{}", profile->table());
}

void check(const TrainBench& b, const Communicator& comm) {
  if (b.batch % comm.size() != 0)
    throw_user("--batch {}: allowed multiples of the {} ranks", b.batch, comm.size());
  if (b.offload.host_state && (device_of(b) == DeviceKind::kCpu || !b.offload.directory.empty()))
    throw_user("--host-state: allowed with --device cuda and without --offload");
  if (b.warmup >= b.steps)
    throw_user("--warmup {}: allowed less than --steps {}", b.warmup, b.steps);
}

std::optional<GpuInfo> choose_device(const TrainBench& b, const Communicator& comm) {
  if (device_of(b) == DeviceKind::kCpu) return std::nullopt;
  const std::optional<RankEnvironment> launched = rank_environment(process_variables());
  return choose_gpu(launched ? launched->local_rank : comm.rank());
}

// What the steps took.
struct Timing {
  std::vector<double> counted_s;  // of the steps after the warmup, ascending
  double first_loss = 0, last_loss = 0;
  Traffic before, after;  // around the counted steps

  double median_s() const { return median(counted_s); }
  double p95_s() const { return counted_s[(counted_s.size() * 95 + 99) / 100 - 1]; }
  double per_step(std::int64_t Traffic::*field) const {
    return static_cast<double>(after.*field - before.*field) /
           static_cast<double>(counted_s.size());
  }
};

// Runs and times the steps; the counted ones are observed by `profile` if asked for.
Timing run_steps(const TrainBench& b, AssembledEngine& assembled, Communicator& comm,
                 OpProfile& profile, UpdateMeter& update) {
  Timing timing;
  std::optional<ObserverScope> observe;
  for (std::int64_t step = 0; step < b.steps; ++step) {
    const std::vector<Batch> batches = step_batches(b, assembled.model.config(), step, comm);
    if (step == b.warmup) {
      timing.before = comm.traffic();
      update.begin();
    }
    if (step == b.warmup && (b.profile || !b.trace.empty())) observe.emplace(profile);
    const std::int64_t start = steady_now_ns();
    const StepResult r = assembled.engine.step(batches, step + 1, kLearningRate);
    device_memory(device_of(b)).wait();
    const double seconds = static_cast<double>(steady_now_ns() - start) * 1e-9;
    if (step >= b.warmup) timing.counted_s.push_back(seconds);
    if (step == 0) timing.first_loss = r.loss;
    timing.last_loss = r.loss;
  }
  timing.after = comm.traffic();
  std::sort(timing.counted_s.begin(), timing.counted_s.end());
  return timing;
}

// The keys that the PyTorch peer has too, and what was asked for.
nlohmann::ordered_json peer_result(const TrainBench& b, const ModelConfig& config,
                                   const std::optional<GpuInfo>& gpu, const Timing& timing) {
  const double step_s = timing.median_s();
  const auto total = static_cast<double>(b.batch * b.seq * b.accumulation);
  return {{"peer", "thimble " + thimble_version()},
          {"size", b.size},
          {"batch", b.batch},
          {"seq", b.seq},
          {"dtype", b.dtype},
          {"compile", false},
          {"checkpoint", b.recompute == "full"},
          {"threads", team_threads()},
          {"params", config.num_parameters()},
          {"device", gpu ? gpu->name : "cpu"},
          {"step_s", step_s},
          {"p95_step_s", timing.p95_s()},
          {"tokens_per_s", total / step_s},
          {"model_tflops", total * config.train_flops_per_token(b.seq) / step_s / 1e12},
          {"peak_bytes", resident_memory().peak_bytes},
          {"first_loss", timing.first_loss},
          {"last_loss", timing.last_loss},
          {"recompute", b.recompute},
          {"optimizer", b.optimizer},
          {"master", b.master},
          {"state_dtype", b.state_dtype},
          {"fused", b.fused},
          {"fp8", b.fp8}};
}

void add_speed(nlohmann::ordered_json& result, const TrainBench& b, const Timing& timing,
               double roofline_s, std::optional<double> peak_flops) {
  const double step_s = timing.median_s();
  result["accumulation"] = b.accumulation;
  result["by_layers"] = b.by_layers;
  result["sol"] = roofline_s * static_cast<double>(b.accumulation) / step_s;  // see roofline.h
  result["mfu"] = nullptr;  // a GPU without a data sheet
  if (peak_flops) result["mfu"] = result["model_tflops"].get<double>() * 1e12 / *peak_flops;
  result["isa"] = cpu_isa();
  result["matmul"] = path_name(matmul_path());
}

void add_memory(nlohmann::ordered_json& result, const MemoryReport& planned,
                const MemoryReport& measured) {
  result["planned_peak_bytes"] = planned.peak_bytes();
  result["measured_peak_bytes"] = measured.peak_bytes();
  result["planned_extent_bytes"] = planned.extent_bytes;
  result["plan_is_exact"] = planned.phases == measured.phases;
}

void add_communication(nlohmann::ordered_json& result, const Timing& timing, int ranks, int stage) {
  const double busy_s = timing.per_step(&Traffic::busy_ns) * 1e-9,
               waited_s = timing.per_step(&Traffic::waited_ns) * 1e-9;
  result["ranks"] = ranks;
  result["zero_stage"] = stage;
  result["sent_bytes"] = timing.per_step(&Traffic::tensor_bytes);
  result["comm_busy_s"] = busy_s;
  result["comm_waited_s"] = waited_s;
  result["comm_hidden"] = busy_s > 0 ? std::max(0.0, 1 - waited_s / busy_s) : 1.0;
}

void choose_matmul_path(const std::string& name) {
  if (name == "auto") return;
  std::string allowed = "auto";
  for (const MatmulPath path : kMatmulPaths) {
    if (!has_matmul_path(path)) continue;
    if (name == path_name(path)) return set_matmul_path(path);
    allowed += fmt::format(", {}", path_name(path));
  }
  throw_user("--matmul '{}': allowed on this CPU: {}", name, allowed);
}

// What the multiply instructions of the path reach on this rank's threads.
std::optional<double> cpu_peak_flops(DType dtype) {
  const MatmulPath path = dtype == DType::kBF16 ? matmul_path() : MatmulPath::kF32;
  for (const MatmulPeak& peak : measure_matmul_peaks(team_threads())) {
    if (peak.path == path) return peak.flops_per_s;
  }
  return std::nullopt;  // the library's path
}

void bench_train(const TrainBench& b, Communicator& comm) {
  check(b, comm);
  choose_matmul_path(b.matmul);
  const TrainSpec spec = spec_of(b);
  const std::optional<GpuInfo> gpu = choose_device(b, comm);
  const MemoryReport planned = plan(b, spec, comm);
  const Roofline roofline =
      measure_roofline(spec.device, spec.model, b.batch * b.seq / comm.size(), spec.engine.dtype,
                       b.accumulation > 1 ? DType::kF32 : spec.engine.grad_dtype);
  reset_resident_peak();
  const std::unique_ptr<Arena> arena =
      Arena::make(spec.device, planned.extent_bytes, planned.host_bytes);
  const BenchDirectory directory(b.offload.directory, comm);
  TrainSpec placed = spec;
  placed.offload.directory = directory.path();
  AssembledEngine assembled(placed, *arena, comm);
  UpdateMeter update(assembled);
  load(assembled);
  OpProfile profile(b.trace);
  const Timing timing = run_steps(b, assembled, comm, profile, update);
  const MemoryReport measured = memory_report(*arena);
  const auto peak = gpu ? datasheet_bf16_flops(gpu->name) : cpu_peak_flops(spec.engine.dtype);
  nlohmann::ordered_json result = peer_result(b, spec.model, gpu, timing);
  result["replayed_micro_batches"] = assembled.engine.replayed_micro_batches();
  result["state_bytes"] = arena->peak().by_tag.at(static_cast<std::size_t>(MemoryTag::kOptimizer));
  add_speed(result, b, timing, roofline.seconds_per_micro_batch(),
            peak ? std::optional(*peak * comm.size()) : std::nullopt);
  add_memory(result, planned, measured);
  for (const auto& [name, value] : update.results(timing.counted_s.size())) result[name] = value;
  add_communication(result, timing, comm.size(), assembled.engine.parallel().stage());
  if (comm.rank() == 0) print_result(b, result, planned, measured, b.profile ? &profile : nullptr);
}

// Alone, or as one rank of what mpirun started.
void run_bench_train(const TrainBench& b, const CommandSession& session) {
  const std::optional<RankEnvironment> launched = rank_environment(process_variables());
  const int ranks_here = launched ? launched->local_ranks : 1;
  set_team_threads(b.threads > 0 ? b.threads : std::max(1, cpu_limit().usable / ranks_here));
  if (!launched || launched->ranks == 1) {
    SingleCommunicator alone;
    bench_train(b, alone);
    return;
  }
  const auto comm = make_mpi_world(std::chrono::minutes(10));
  run_mpi_rank(session, *comm, [&] { bench_train(b, *comm); });
}

}  // namespace

void add_bench_train(CLI::App& bench, CommandSession& session) {
  auto options = std::make_shared<TrainBench>();
  CLI::App* train =
      bench.add_subcommand("train", "Steps on random tokens, with the keys of the PyTorch peer");
  train->add_option("--size", options->size, model_config_names());
  train->add_option("--batch", options->batch, "Sequences per micro-batch, of all ranks")
      ->check(CLI::PositiveNumber);
  train->add_option("--seq", options->seq, "Positions per sequence")->check(CLI::Range(1, 1 << 20));
  train->add_option("--accumulation", options->accumulation, "Micro-batches per step")
      ->check(CLI::PositiveNumber);
  train->add_flag("--by-layers", options->by_layers,
                  "All micro-batches of a step through a layer before the next");
  train->add_option("--steps", options->steps, "Steps in all")->check(CLI::PositiveNumber);
  train->add_option("--warmup", options->warmup, "Steps not counted")
      ->check(CLI::NonNegativeNumber);
  train->add_option("--dtype", options->dtype, "bf16 or f32")
      ->check(CLI::IsMember({"bf16", "f32"}));
  train->add_option("--device", options->device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  train->add_option("--recompute", options->recompute, "none, selective or full")
      ->check(CLI::IsMember({"none", "selective", "full"}));
  train->add_option("--threads", options->threads,
                    "Threads of a rank (default: its share of the cores)");
  add_offload_options(*train, options->offload);
  add_host_options(*train, options->offload);
  train->add_option("--zero-stage", options->zero_stage, "Under mpirun: what the ranks share")
      ->check(CLI::Range(0, 3));
  train->add_option("--comm-dtype", options->comm_dtype, "Under mpirun: gradients between ranks")
      ->check(CLI::IsMember({"bf16", "fp32"}));
  train->add_option("--optimizer", options->optimizer, "`thimble optimizers` lists them");
  train->add_option("--fallback", options->fallback, "For what --optimizer does not take");
  train->add_option("--rank", options->rank, "Of a low-rank optimizer")->check(CLI::PositiveNumber);
  train->add_option("--matmul", options->matmul,
                    "How bf16 is multiplied on a CPU: auto, library, f32, bf16 or amx");
  train->add_option("--master", options->master, "Beside bf16 weights: fp32, split16 or none")
      ->check(CLI::IsMember({"fp32", "split16", "none"}));
  train->add_option("--state-dtype", options->state_dtype, "Moments: fp32, bf16 or 8bit")
      ->check(CLI::IsMember({"fp32", "bf16", "8bit"}));
  train->add_flag("--fused", options->fused, "Update within the backward pass, lagged clipping");
  train->add_option("--trace", options->trace,
                    "Write a Chrome trace of the counted steps to this file");
  train->add_flag("--fp8", options->fp8, "Matmuls of linear layers in 8 bits; --dtype bf16");
  train->add_flag("--no-graphs", options->no_graphs,
                  "On a GPU: no micro-batches replayed as CUDA graphs");
  train->add_flag("--profile", options->profile, "Print a table of operations to standard error");
  train->add_flag("--json", options->json, "One JSON object");
  train->callback([options, &session] {
    session.start();
    run_bench_train(*options, session);
  });
}

}  // namespace thimble
