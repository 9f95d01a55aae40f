#include "launcher/commands/bench_train.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/base/random.h"
#include "core/base/threads.h"
#include "core/device/gpu.h"
#include "core/ops/op_observer.h"
#include "launcher/commands/command.h"
#include "launcher/commands/mpi_rank.h"
#include "launcher/commands/version.h"
#include "launcher/plan/speed_of_light.h"
#include "launcher/run/gpu_peaks.h"
#include "launcher/run/machine.h"
#include "launcher/run/rank_environment.h"
#include "launcher/trainer/op_profile.h"
#include "models/transformer.h"
#include "models/weight_sources.h"
#include "optim/groups.h"
#include "parallel/mpi_world.h"
#include "parallel/planning_communicator.h"
#include "train/memory_report.h"
#include "train/train_engine.h"

namespace thimble {
namespace {

struct TrainBench {
  std::string size = "130m";
  std::int64_t batch = 4, seq = 512, accumulation = 1, steps = 12, warmup = 6;
  std::string dtype = "bf16", recompute = "none", trace, device = "cpu";
  std::string comm_dtype = "bf16";
  std::string optimizer = "adamw", fallback = "adamw", master = "fp32", state_dtype = "fp32";
  std::optional<std::int64_t> rank;
  bool fused = false;
  bool no_graphs = false, fp8 = false;
  int threads = 0, zero_stage = 1;
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

// Random tokens of a fixed seed: the work does not depend on the text.
Batch random_batch(const ModelConfig& config, std::int64_t rows, std::int64_t seq,
                   std::int64_t index) {
  const CounterRandom random(0, RandomPurpose::kSampling, 1, static_cast<std::uint64_t>(index));
  Batch b{.sequences = rows, .seq_len = seq};
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t t = 0; t < seq; ++t) {
      const auto token = [&](std::int64_t at) {
        return static_cast<std::int32_t>(
            random.u32(static_cast<std::uint64_t>(r * (seq + 1) + at)) %
            static_cast<std::uint32_t>(config.vocab_size));
      };
      b.tokens.push_back(token(t));
      b.targets.push_back(token(t + 1));
      b.weights.push_back(1.0f);
      b.segment_start.push_back(0);
      b.positions.push_back(static_cast<std::int32_t>(t));
    }
  }
  return b;
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

OptimizerGroups bench_optimizer(const TrainBench& b, const ParamTable& params) {
  GroupSettings main{
      .label = "--optimizer", .match = "", .optimizer = {.name = b.optimizer}, .lr = 1e-4};
  main.optimizer.rank = b.rank;
  main.optimizer.low_precision = b.dtype == "bf16";
  main.optimizer.adam.state = b.state_dtype == "bf16"   ? StateFormat::kBF16
                              : b.state_dtype == "8bit" ? StateFormat::k8Bit
                                                        : StateFormat::kF32;
  GroupSettings fallback = main;
  fallback.optimizer.name = b.fallback;
  fallback.optimizer.rank.reset();
  return {params, {}, std::move(main), std::move(fallback)};
}

// Runs load and one step on `arena`, which may be a planning one.
std::unique_ptr<TrainEngine> make_engine(Arena& arena, const Transformer& model,
                                         const Optimizer& optimizer, const TrainBench& b,
                                         Communicator& comm) {
  arena.begin_phase("load");
  auto engine = std::make_unique<TrainEngine>(arena, model, optimizer, engine_options(b), comm);
  InitSource source(0, model.config().init_std);
  engine->load(source);
  arena.begin_phase("step");
  return engine;
}

// This rank's rows of a step, which is the same work whatever the number of ranks.
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

MemoryReport plan(const TrainBench& b, const Transformer& model, const Optimizer& optimizer,
                  const Communicator& comm) {
  const std::unique_ptr<Arena> arena = Arena::make_planning(device_of(b));
  PlanningCommunicator planned(comm.rank(), comm.size());
  const auto engine = make_engine(*arena, model, optimizer, b, planned);
  engine->step(step_batches(b, model.config(), 0, planned), 1, 1e-4);
  engine->step(step_batches(b, model.config(), 1, planned), 2, 1e-4);
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

void bench_train(const TrainBench& b, Communicator& comm) {
  if (b.batch % comm.size() != 0)
    throw_user("--batch {}: allowed multiples of the {} ranks", b.batch, comm.size());
  const auto config = named_model_config(b.size);
  if (!config) throw_user("--size '{}': allowed {}", b.size, model_config_names());
  if (b.warmup >= b.steps)
    throw_user("--warmup {}: allowed less than --steps {}", b.warmup, b.steps);
  std::optional<GpuInfo> gpu;
  if (device_of(b) == DeviceKind::kGpu) {
    const std::optional<RankEnvironment> launched = rank_environment(process_variables());
    gpu = choose_gpu(launched ? launched->local_rank : comm.rank());
  }
  const Transformer model(*config);
  const OptimizerGroups optimizer = bench_optimizer(b, model.params());
  const MemoryReport planned = plan(b, model, optimizer, comm);
  const std::int64_t tokens = b.batch * b.seq, own_tokens = tokens / comm.size();
  const EngineOptions options = engine_options(b);
  const SpeedOfLight light =
      measure_speed_of_light(device_of(b), *config, own_tokens, options.dtype,
                             b.accumulation > 1 ? DType::kF32 : options.grad_dtype);
  reset_resident_peak();
  const std::unique_ptr<Arena> arena =
      Arena::make(device_of(b), planned.extent_bytes, planned.host_bytes);
  const auto engine = make_engine(*arena, model, optimizer, b, comm);
  OpProfile profile(b.trace);
  std::optional<ObserverScope> observe;
  std::vector<double> seconds, losses;
  Traffic before;
  for (std::int64_t step = 0; step < b.steps; ++step) {
    const std::vector<Batch> batches = step_batches(b, *config, step, comm);
    if (step == b.warmup) before = comm.traffic();
    if (step == b.warmup && (b.profile || !b.trace.empty())) observe.emplace(profile);
    const std::int64_t start = steady_now_ns();
    const StepResult r = engine->step(batches, step + 1, 1e-4);
    device_memory(device_of(b)).wait();
    seconds.push_back(static_cast<double>(steady_now_ns() - start) * 1e-9);
    losses.push_back(r.loss);
  }
  observe.reset();
  std::vector<double> timed(seconds.begin() + b.warmup, seconds.end());
  std::sort(timed.begin(), timed.end());
  const double step_s = median(timed);
  const double p95_s = timed[(timed.size() * 95 + 99) / 100 - 1];
  const auto total = static_cast<double>(tokens * b.accumulation);
  const MemoryReport measured = memory_report(*arena);
  const double sol = light.seconds_per_micro_batch() * static_cast<double>(b.accumulation) / step_s;
  const double flops_per_s = total * config->train_flops_per_token(b.seq) / step_s;
  const auto peak = gpu ? datasheet_bf16_flops(gpu->name) : std::nullopt;
  nlohmann::ordered_json mfu;  // null: no data sheet to go by
  if (peak) mfu = flops_per_s / (*peak * comm.size());
  const auto counted = static_cast<double>(b.steps - b.warmup);
  const Traffic after = comm.traffic();
  const auto per_step = [&](std::int64_t Traffic::*field) {
    return static_cast<double>(after.*field - before.*field) / counted;
  };
  const double busy_s = per_step(&Traffic::busy_ns) * 1e-9,
               waited_s = per_step(&Traffic::waited_ns) * 1e-9;
  const nlohmann::ordered_json result{
      {"peer", "thimble " + thimble_version()},
      {"size", b.size},
      {"batch", b.batch},
      {"seq", b.seq},
      {"dtype", b.dtype},
      {"compile", false},
      {"checkpoint", b.recompute == "full"},
      {"threads", team_threads()},
      {"params", config->num_parameters()},
      {"device", gpu ? gpu->name : "cpu"},
      {"step_s", step_s},
      {"p95_step_s", p95_s},
      {"tokens_per_s", total / step_s},
      {"model_tflops", flops_per_s / 1e12},
      {"peak_bytes", resident_memory().peak_bytes},
      {"first_loss", losses.front()},
      {"last_loss", losses.back()},
      {"recompute", b.recompute},
      {"optimizer", b.optimizer},
      {"master", b.master},
      {"state_dtype", b.state_dtype},
      {"fused", b.fused},
      {"fp8", b.fp8},
      {"replayed_micro_batches", engine->replayed_micro_batches()},
      {"state_bytes", arena->peak().by_tag.at(static_cast<std::size_t>(MemoryTag::kOptimizer))},
      {"accumulation", b.accumulation},
      {"sol", sol},
      {"mfu", mfu},
      {"isa", cpu_isa()},
      {"planned_peak_bytes", planned.peak_bytes()},
      {"measured_peak_bytes", measured.peak_bytes()},
      {"planned_extent_bytes", planned.extent_bytes},
      {"plan_is_exact", planned.phases == measured.phases},
      {"ranks", comm.size()},
      {"zero_stage", engine->parallel().stage()},
      {"sent_bytes", per_step(&Traffic::tensor_bytes)},
      {"comm_busy_s", busy_s},
      {"comm_waited_s", waited_s},
      {"comm_hidden", busy_s > 0 ? std::max(0.0, 1 - waited_s / busy_s) : 1.0}};
  if (comm.rank() != 0) return;
  print_result(b, result, planned, measured, b.profile ? &profile : nullptr);
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
  train->add_option("--batch", options->batch, "Rows per micro-batch, of all ranks")
      ->check(CLI::PositiveNumber);
  train->add_option("--seq", options->seq, "Positions per row")->check(CLI::Range(1, 1 << 20));
  train->add_option("--accumulation", options->accumulation, "Micro-batches per step")
      ->check(CLI::PositiveNumber);
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
  train->add_option("--zero-stage", options->zero_stage, "Under mpirun: what the ranks share")
      ->check(CLI::Range(0, 3));
  train->add_option("--comm-dtype", options->comm_dtype, "Under mpirun: gradients between ranks")
      ->check(CLI::IsMember({"bf16", "fp32"}));
  train->add_option("--optimizer", options->optimizer, "`thimble optimizers` lists them");
  train->add_option("--fallback", options->fallback, "For what --optimizer does not take");
  train->add_option("--rank", options->rank, "Of a low-rank optimizer")->check(CLI::PositiveNumber);
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
