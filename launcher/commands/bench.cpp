// `thimble bench`: the machine's limits, (bench_disk.h) those of a disk, and the
// speed of a training step (bench_train.h) and of decoding (bench_decode.h).
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/threads.h"
#include "core/device/gpu.h"
#include "core/ops/matmul_path.h"
#include "core/ops/op_observer.h"
#include "core/ops/ops.h"
#include "launcher/commands/bench_decode.h"
#include "launcher/commands/bench_disk.h"
#include "launcher/commands/bench_train.h"
#include "launcher/commands/command.h"
#include "launcher/commands/mpi_rank.h"
#include "launcher/run/rank_environment.h"
#include "parallel/mpi_world.h"
#include "plan/roofline.h"
#include "plan/time_plan.h"

namespace thimble {
namespace {

// What the multiply instructions of this CPU reach on registers alone, and which of them jobs take.
void print_peaks(bool json) {
  const std::vector<MatmulPeak> peaks = measure_matmul_peaks(team_threads());
  for (const MatmulPeak& peak : peaks) {
    if (json) {
      fmt::print("{}\n", nlohmann::ordered_json{{"peak_of", path_name(peak.path)},
                                                {"gflops", peak.flops_per_s / 1e9},
                                                {"chosen", peak.path == matmul_path()}}
                             .dump());
    } else {
      fmt::print("peak of {:<5} instructions {:>10.1f} GFLOP/s{}\n", path_name(peak.path),
                 peak.flops_per_s / 1e9,
                 peak.path == matmul_path() ? "  (bf16 jobs take it: training.matmul)" : "");
    }
  }
  const std::string advice = matmul_advice(peaks);
  if (!json && !advice.empty()) fmt::print("warning: {}\n", advice);
}

void bench_gemm(DeviceKind device, const std::string& size, std::int64_t tokens, bool json) {
  const auto config = named_model_config(size);
  if (!config) throw_user("--size '{}': allowed {}", size, model_config_names());
  if (device == DeviceKind::kCpu) print_peaks(json);
  if (!json)
    fmt::print("{:<6} {:<16} {:>7} {:>7} {:>7} {:>10}  {}\n", "dtype", "matmul", "m", "n", "k",
               "GFLOP/s", device == DeviceKind::kCpu ? "by path" : "");
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const MatmulRate& p : measure_roofline(device, *config, tokens, dtype, dtype).matmuls) {
      nlohmann::ordered_json paths = nlohmann::ordered_json::object();
      std::string text;
      for (const PathRate& rate : p.by_path) {
        paths[path_name(rate.path)] = rate.flops_per_s / 1e9;
        text += fmt::format("{} {:.1f}  ", path_name(rate.path), rate.flops_per_s / 1e9);
      }
      if (json) {
        fmt::print("{}\n", nlohmann::ordered_json{{"dtype", dtype_name(dtype)},
                                                  {"matmul", p.name},
                                                  {"m", p.m},
                                                  {"n", p.n},
                                                  {"k", p.k},
                                                  {"gflops", p.flops_per_s / 1e9},
                                                  {"gflops_by_path", paths}}
                               .dump());
      } else {
        fmt::print("{:<6} {:<16} {:>7} {:>7} {:>7} {:>10.1f}  {}\n", dtype_name(dtype), p.name, p.m,
                   p.n, p.k, p.flops_per_s / 1e9, text);
      }
    }
  }
}

// Measures what a rank can send: to the other ranks under mpirun, else between two threads.
void bench_comm(bool json, const CommandSession& session) {
  const std::optional<RankEnvironment> launched = rank_environment(process_variables());
  const bool is_rank = launched && launched->ranks > 1;
  const auto comm = is_rank ? make_mpi_world(std::chrono::minutes(10)) : nullptr;
  for (const std::int64_t bytes : {kMiB, 8 * kMiB, 64 * kMiB}) {
    const double rate =
        is_rank ? run_mpi_rank(session, *comm, [&] { return measure_exchange_rate(*comm, bytes); })
                : measure_local_exchange_rate(bytes);
    if (is_rank && comm->rank() != 0) continue;
    if (json) {
      fmt::print("{}\n", nlohmann::ordered_json{{"ranks", is_rank ? launched->ranks : 2},
                                                {"bytes", bytes},
                                                {"sent_gb_per_s", rate / 1e9}}
                             .dump());
    } else {
      fmt::print("{:>8} of gradients reduced and gathered by {} {}: {:6.2f} GB/s sent by each\n",
                 format_bytes(bytes), is_rank ? launched->ranks : 2, is_rank ? "ranks" : "threads",
                 rate / 1e9);
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
  const double read = gb(kBytes, best([&] { static_cast<void>(ops::sum_squares(*arena, a)); }));
  const double write = gb(kBytes, best([&] { ops::zero(b); }));
  const double copy = gb(2 * kBytes, best([&] { ops::copy(b, a); }));
  const double add = gb(3 * kBytes, best([&] { ops::add(b, a, b); }));
  if (json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"threads", team_threads()},
                                              {"read_gb_per_s", read},
                                              {"write_gb_per_s", write},
                                              {"copy_gb_per_s", copy},
                                              {"add_gb_per_s", add}}
                           .dump());
    return;
  }
  fmt::print(
      "threads {}\nread  {:6.1f} GB/s\nwrite {:6.1f} GB/s\ncopy  {:6.1f} GB/s (read + written)\n"
      "add   {:6.1f} GB/s (2 read + 1 written)\n",
      team_threads(), read, write, copy, add);
}

}  // namespace

void add_bench_command(CLI::App& app, CommandSession& session) {
  CLI::App* bench = app.add_subcommand(
      "bench", "Measure this machine: a training step, decoding, matmuls, memory, disk, communication");
  bench->require_subcommand(1);
  bench->footer(
      "Examples:\n"
      "  thimble bench train --size 130m --batch 4 --seq 512 --dtype bf16 --steps 14 --warmup 8 "
      "--json\n"
      "  thimble bench decode --context 8192 --kv-method window --kv-budget 0.25\n"
      "  thimble bench gemm\n"
      "  mpirun -np 2 thimble bench comm\n"
      "  thimble bench memory\n"
      "  thimble bench disk --dir /scratch");
  add_bench_train(*bench, session);
  add_bench_decode(*bench, session);
  add_bench_disk(*bench, session);
  struct Limits {
    std::string size = "130m", device = "cpu";
    std::int64_t tokens = 2048;
    bool json = false;
  };
  auto limits = std::make_shared<Limits>();
  CLI::App* gemm = bench->add_subcommand("gemm", "Rates of a model's matmuls");
  gemm->add_option("--size", limits->size, model_config_names());
  gemm->add_option("--tokens", limits->tokens, "Positions per micro-batch")
      ->check(CLI::PositiveNumber);
  gemm->add_option("--device", limits->device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  gemm->add_flag("--json", limits->json, "One JSON object per line");
  gemm->callback([limits, &session] {
    session.start();
    const DeviceKind device = limits->device == "cpu" ? DeviceKind::kCpu : DeviceKind::kGpu;
    if (device == DeviceKind::kGpu) static_cast<void>(choose_gpu(0));
    bench_gemm(device, limits->size, limits->tokens, limits->json);
  });
  CLI::App* comm =
      bench->add_subcommand("comm", "What a rank can send to others; run it by mpirun");
  comm->add_flag("--json", limits->json, "One JSON object per line");
  comm->callback([limits, &session] {
    session.start();
    bench_comm(limits->json, session);
  });
  CLI::App* memory = bench->add_subcommand("memory", "Memory bandwidth");
  memory->add_flag("--json", limits->json, "One JSON object");
  memory->callback([limits, &session] {
    session.start();
    bench_memory(limits->json);
  });
}

}  // namespace thimble
