// `thimble bench`: the machine's limits and the speed of a training step, to be laid beside a peer's.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/base/random.h"
#include "core/base/threads.h"
#include "core/ops/op_observer.h"
#include "launcher/commands/command.h"
#include "launcher/commands/version.h"
#include "launcher/engine/memory_report.h"
#include "launcher/engine/op_profile.h"
#include "launcher/engine/speed_of_light.h"
#include "launcher/engine/train_engine.h"
#include "launcher/run/machine.h"
#include "models/weight_sources.h"
#include "optim/adamw.h"

namespace thimble {
namespace {

struct TrainBench {
  std::string size = "130m";
  std::int64_t batch = 4, seq = 512, accumulation = 1, steps = 12, warmup = 6;
  std::string dtype = "bf16", recompute = "none", trace;
  int threads = 0;
  bool json = false, profile = false;
};

Recompute recompute_of(const std::string& name) {
  return name == "full" ? Recompute::kFull : name == "selective" ? Recompute::kSelective : Recompute::kNone;
}

// Random tokens of a fixed seed: the work does not depend on the text.
Batch random_batch(const ModelConfig& config, std::int64_t rows, std::int64_t seq, std::int64_t index) {
  const CounterRandom random(0, RandomPurpose::kSampling, 1, static_cast<std::uint64_t>(index));
  Batch b{.rows = rows, .seq_len = seq};
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t t = 0; t < seq; ++t) {
      const auto token = [&](std::int64_t at) {
        return static_cast<std::int32_t>(random.u32(static_cast<std::uint64_t>(r * (seq + 1) + at)) %
                                         static_cast<std::uint32_t>(config.vocab_size));
      };
      b.tokens.push_back(token(t));
      b.targets.push_back(token(t + 1));
      b.weights.push_back(1.0f);
      b.doc_start.push_back(0);
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
  return {.dtype = dtype, .grad_dtype = dtype, .recompute = recompute_of(b.recompute),
          .accumulates = b.accumulation > 1, .seq_len = b.seq};
}

// Runs load and one step on `arena`, which may be a planning one.
std::unique_ptr<TrainEngine> make_engine(Arena& arena, const Transformer& model, const Optimizer& optimizer,
                                         const TrainBench& b) {
  arena.begin_phase("load");
  auto engine = std::make_unique<TrainEngine>(arena, model, optimizer, engine_options(b));
  InitSource source(0, model.config().init_std);
  engine->load(source);
  arena.begin_phase("step");
  return engine;
}

std::vector<Batch> step_batches(const TrainBench& b, const ModelConfig& config, std::int64_t step) {
  std::vector<Batch> batches;
  for (std::int64_t i = 0; i < b.accumulation; ++i) {
    batches.push_back(random_batch(config, b.batch, b.seq, step * b.accumulation + i));
  }
  return batches;
}

MemoryReport plan(const TrainBench& b, const Transformer& model, const Optimizer& optimizer) {
  const std::unique_ptr<Arena> arena = Arena::make_planning();
  const auto engine = make_engine(*arena, model, optimizer, b);
  engine->step(step_batches(b, model.config(), 0), 1, 1e-4);
  engine->step(step_batches(b, model.config(), 1), 2, 1e-4);
  return memory_report(*arena);
}

void print_result(const TrainBench& b, const nlohmann::ordered_json& result, const MemoryReport& planned,
                  const MemoryReport& measured, const OpProfile* profile) {
  if (b.json) {
    fmt::print("{}\n", result.dump());
  } else {
    for (const auto& [key, value] : result.items()) fmt::print("{:<22} {}\n", key, value.dump());
    fmt::print("\nplanned\n{}\nmeasured\n{}", to_table(planned), to_table(measured));
  }
  if (profile != nullptr) fmt::print(stderr, "{}", profile->table());
}

void bench_train(const TrainBench& b) {
  if (b.threads > 0) set_team_threads(b.threads);
  const auto config = named_model_config(b.size);
  if (!config) throw_user("--size '{}': allowed 20m, 60m, 130m, 350m, 1b, 7b", b.size);
  if (b.warmup >= b.steps) throw_user("--warmup {}: allowed less than --steps {}", b.warmup, b.steps);
  const Transformer model(*config);
  const AdamW optimizer(AdamWOptions{});
  const MemoryReport planned = plan(b, model, optimizer);
  const std::int64_t tokens = b.batch * b.seq;
  const EngineOptions options = engine_options(b);
  const SpeedOfLight light =
      measure_speed_of_light(*config, tokens, options.dtype, b.accumulation > 1 ? DType::kF32 : options.grad_dtype);
  reset_resident_peak();
  const std::unique_ptr<Arena> arena = Arena::make_cpu(planned.extent_bytes);
  const auto engine = make_engine(*arena, model, optimizer, b);
  OpProfile profile(b.trace);
  std::optional<ObserverScope> observe;
  std::vector<double> seconds, losses;
  for (std::int64_t step = 0; step < b.steps; ++step) {
    const std::vector<Batch> batches = step_batches(b, *config, step);
    if (step == b.warmup && (b.profile || !b.trace.empty())) observe.emplace(profile);
    const std::int64_t start = steady_now_ns();
    const StepResult r = engine->step(batches, step + 1, 1e-4);
    seconds.push_back(static_cast<double>(steady_now_ns() - start) * 1e-9);
    losses.push_back(r.loss);
  }
  observe.reset();
  const double step_s = median({seconds.begin() + b.warmup, seconds.end()});
  const auto total = static_cast<double>(tokens * b.accumulation);
  const MemoryReport measured = memory_report(*arena);
  const double sol = light.seconds_per_micro_batch() * static_cast<double>(b.accumulation) / step_s;
  const nlohmann::ordered_json result{
      {"peer", "thimble " + thimble_version()}, {"size", b.size}, {"batch", b.batch}, {"seq", b.seq},
      {"dtype", b.dtype}, {"compile", false}, {"checkpoint", b.recompute == "full"}, {"threads", team_threads()},
      {"params", config->num_parameters()}, {"step_s", step_s}, {"tokens_per_s", total / step_s},
      {"model_tflops", total * config->train_flops_per_token(b.seq) / step_s / 1e12},
      {"peak_bytes", resident_memory().peak_bytes}, {"first_loss", losses.front()}, {"last_loss", losses.back()},
      {"recompute", b.recompute}, {"accumulation", b.accumulation}, {"sol", sol}, {"isa", cpu_isa()},
      {"planned_peak_bytes", planned.peak_bytes()}, {"measured_peak_bytes", measured.peak_bytes()},
      {"planned_extent_bytes", planned.extent_bytes}, {"plan_is_exact", planned.phases == measured.phases}};
  print_result(b, result, planned, measured, b.profile ? &profile : nullptr);
}

void bench_gemm(const std::string& size, std::int64_t tokens, bool json) {
  const auto config = named_model_config(size);
  if (!config) throw_user("--size '{}': allowed 20m, 60m, 130m, 350m, 1b, 7b", size);
  if (!json) fmt::print("{:<6} {:<16} {:>7} {:>7} {:>7} {:>10}\n", "dtype", "product", "m", "n", "k", "GFLOP/s");
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const ProductRate& p : measure_speed_of_light(*config, tokens, dtype, dtype).products) {
      if (json) {
        fmt::print("{}\n", nlohmann::ordered_json{{"dtype", dtype_name(dtype)}, {"product", p.name}, {"m", p.m},
                                                  {"n", p.n}, {"k", p.k}, {"gflops", p.flops_per_s / 1e9}}
                               .dump());
      } else {
        fmt::print("{:<6} {:<16} {:>7} {:>7} {:>7} {:>10.1f}\n", dtype_name(dtype), p.name, p.m, p.n, p.k,
                   p.flops_per_s / 1e9);
      }
    }
  }
}

void bench_memory(bool json) {
  constexpr std::int64_t kBytes = 512 * kMiB;
  const std::unique_ptr<Arena> arena = Arena::make_cpu(3 * kBytes);
  const Shape shape{kBytes / 4096, 1024};
  const Tensor a = Tensor::empty(*arena, MemoryTag::kWorkspace, DType::kF32, shape);
  const Tensor b = Tensor::empty(*arena, MemoryTag::kWorkspace, DType::kF32, shape);
  ops::zero(a);
  ops::zero(b);
  const auto best = [](auto&& body) {
    double top = 1e9;
    for (int i = 0; i < 5; ++i) {
      const std::int64_t start = steady_now_ns();
      body();
      top = std::min(top, static_cast<double>(steady_now_ns() - start) * 1e-9);
    }
    return top;
  };
  const auto gb = [](std::int64_t bytes, double s) { return static_cast<double>(bytes) / s / 1e9; };
  const double read = gb(kBytes, best([&] { static_cast<void>(ops::sum_squares(a)); }));
  const double write = gb(kBytes, best([&] { ops::zero(b); }));
  const double copy = gb(2 * kBytes, best([&] { ops::copy(b, a); }));
  const double add = gb(3 * kBytes, best([&] { ops::add(b, a, b); }));
  if (json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"threads", team_threads()}, {"read_gb_per_s", read},
                                              {"write_gb_per_s", write}, {"copy_gb_per_s", copy},
                                              {"add_gb_per_s", add}}
                           .dump());
    return;
  }
  fmt::print("threads {}\nread  {:6.1f} GB/s\nwrite {:6.1f} GB/s\ncopy  {:6.1f} GB/s (read + written)\n"
             "add   {:6.1f} GB/s (2 read + 1 written)\n", team_threads(), read, write, copy, add);
}

}  // namespace

void add_bench_command(CLI::App& app, CommandSession& session) {
  CLI::App* bench = app.add_subcommand("bench", "Measure this machine: a training step, matrix products, memory");
  bench->require_subcommand(1);
  bench->footer("Examples:\n"
                "  thimble bench train --size 130m --batch 4 --seq 512 --dtype bf16 --steps 14 --warmup 8 --json\n"
                "  thimble bench gemm\n"
                "  thimble bench memory");
  auto options = std::make_shared<TrainBench>();
  CLI::App* train = bench->add_subcommand("train", "Steps on random tokens, with the keys of the PyTorch peer");
  train->add_option("--size", options->size, "20m, 60m, 130m, 350m, 1b, 7b");
  train->add_option("--batch", options->batch, "Rows per micro-batch")->check(CLI::PositiveNumber);
  train->add_option("--seq", options->seq, "Positions per row")->check(CLI::Range(1, 1 << 20));
  train->add_option("--accumulation", options->accumulation, "Micro-batches per step")->check(CLI::PositiveNumber);
  train->add_option("--steps", options->steps, "Steps in all")->check(CLI::PositiveNumber);
  train->add_option("--warmup", options->warmup, "Steps not counted")->check(CLI::NonNegativeNumber);
  train->add_option("--dtype", options->dtype, "bf16 or f32")->check(CLI::IsMember({"bf16", "f32"}));
  train->add_option("--recompute", options->recompute, "none, selective or full")
      ->check(CLI::IsMember({"none", "selective", "full"}));
  train->add_option("--threads", options->threads, "Threads (default: all)");
  train->add_option("--trace", options->trace, "Write a Chrome trace of the counted steps to this file");
  train->add_flag("--profile", options->profile, "Print a table of operations to standard error");
  train->add_flag("--json", options->json, "One JSON object");
  train->callback([options, &session] {
    session.start();
    bench_train(*options);
  });
  struct Limits {
    std::string size = "130m";
    std::int64_t tokens = 2048;
    bool json = false;
  };
  auto limits = std::make_shared<Limits>();
  CLI::App* gemm = bench->add_subcommand("gemm", "Rates of a model's matrix products");
  gemm->add_option("--size", limits->size, "20m, 60m, 130m, 350m, 1b, 7b");
  gemm->add_option("--tokens", limits->tokens, "Positions per micro-batch")->check(CLI::PositiveNumber);
  gemm->add_flag("--json", limits->json, "One JSON object a line");
  gemm->callback([limits, &session] {
    session.start();
    bench_gemm(limits->size, limits->tokens, limits->json);
  });
  CLI::App* memory = bench->add_subcommand("memory", "Memory bandwidth");
  memory->add_flag("--json", limits->json, "One JSON object");
  memory->callback([limits, &session] {
    session.start();
    bench_memory(limits->json);
  });
}

}  // namespace thimble
