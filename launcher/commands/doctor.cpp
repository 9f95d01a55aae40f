// `thimble doctor`: what this machine offers, and what is in the way.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/base/numeric.h"
#include "core/io/file_engine.h"
#include "launcher/commands/command.h"
#include "launcher/commands/version.h"
#include "core/ops/kernel_table.h"
#include "launcher/engine/speed_of_light.h"
#include "launcher/run/machine.h"

namespace thimble {
namespace {

constexpr std::int64_t kLittleDiskBytes = 5 * kGiB;

double best_gflops(DType dtype) {
  const auto config = named_model_config("20m");
  double best = 0;
  for (const ProductRate& p : measure_speed_of_light(*config, 1024, dtype, dtype).products) {
    best = std::max(best, p.flops_per_s / 1e9);
  }
  return best;
}

bool huge_pages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string text;
  std::getline(file, text);
  return text.find("[never]") == std::string::npos;
}

void run_doctor(bool json) {
  const Machine m = probe_machine();
  const std::int64_t disk = disk_free_bytes(".");
  const std::string engine(make_file_engine()->name());
  const double bf16 = best_gflops(DType::kBF16), f32 = best_gflops(DType::kF32);
  std::vector<std::string> warnings;
  if (!m.cpu.avx512) warnings.push_back("no AVX-512: bf16 products are computed in f32");
  if (m.cores.usable < m.cores.online) {
    warnings.push_back(fmt::format("only {} of {} cores may be used ({})", m.cores.usable, m.cores.online, m.cores.bound_by));
  }
  if (disk < kLittleDiskBytes) warnings.push_back(fmt::format("only {} of disk is free here", format_bytes(disk)));
  if (engine.find("uring") == std::string::npos) warnings.push_back("io_uring is not permitted; files use threads instead");
  if (!huge_pages()) warnings.push_back("transparent huge pages are off: the first touch of memory is slower");
  if (json) {
    const nlohmann::ordered_json out{{"version", thimble_version()}, {"cpu", m.cpu.brand}, {"isa", m.cpu.isa()},
                                     {"isa_in_use", cpu_isa()}, {"kernel", m.kernel}, {"cores_usable", m.cores.usable},
                                     {"memory_bytes", m.memory.total_bytes}, {"memory_usable_bytes", m.memory.usable_bytes},
                                     {"budget_bytes", m.memory.default_budget_bytes()}, {"memory_bound_by", m.memory.bound_by},
                                     {"disk_free_bytes", disk}, {"file_engine", engine}, {"bf16_gflops", bf16},
                                     {"f32_gflops", f32}, {"warnings", warnings}};
    fmt::print("{}\n", out.dump());
    return;
  }
  print_version(false);
  fmt::print("cpu      {}, {} usable cores ({}), {}; in use: {}\n", m.cpu.brand, m.cores.usable, m.cores.bound_by,
             m.cpu.isa(), cpu_isa());
  fmt::print("products {:.0f} GFLOP/s bf16, {:.0f} GFLOP/s f32\n", bf16, f32);
  fmt::print("memory   {} in all, {} usable ({}), budget by default {}\n", format_bytes(m.memory.total_bytes),
             format_bytes(m.memory.usable_bytes), m.memory.bound_by, format_bytes(m.memory.default_budget_bytes()));
  fmt::print("disk     {} free here; files through {}\n", format_bytes(disk), engine);
  fmt::print("kernel   {}\n", m.kernel);
  for (const std::string& w : warnings) fmt::print("warning: {}\n", w);
  if (warnings.empty()) fmt::print("nothing is in the way\n");
}

}  // namespace

void add_doctor_command(CLI::App& app, CommandSession& session) {
  auto json = std::make_shared<bool>(false);
  CLI::App* doctor = app.add_subcommand("doctor", "Check this machine: processor, memory, disk, libraries, speed");
  doctor->add_flag("--json", *json, "One JSON object");
  doctor->footer("Example:\n  thimble doctor");
  doctor->callback([json, &session] {
    session.start();
    run_doctor(*json);
  });
}

}  // namespace thimble
