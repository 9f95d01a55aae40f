// `thimble doctor`: reports what this machine offers and what would hinder a run.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>

#include "core/base/numeric.h"
#include "core/base/threads.h"
#include "core/device/arena.h"
#include "core/device/gpu.h"
#include "core/io/file_engine.h"
#include "core/ops/kernel_table.h"
#include "core/ops/matmul_path.h"
#include "core/ops/op_observer.h"
#include "launcher/commands/bench_disk.h"
#include "launcher/commands/command.h"
#include "launcher/commands/version.h"
#include "launcher/run/gpu_peaks.h"
#include "launcher/run/machine.h"
#include "offload/disk_speed.h"
#include "parallel/mpi_world.h"
#include "plan/roofline.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kLittleDiskBytes = 5 * kGiB;
constexpr std::int64_t kDiskTestBytes = 64 * kMiB;
constexpr std::size_t kRegisteredBytes = 64 * kMiB;  // as state on disk moves through
constexpr double kDiskTestSeconds = 0.3;

struct DoctorArguments {
  std::string directory = ".";
  bool json = false;
};

double best_gflops(DType dtype) {
  const auto config = named_model_config("20m");
  double best = 0;
  for (const MatmulRate& p :
       measure_roofline(DeviceKind::kCpu, *config, 1024, dtype, dtype).matmuls) {
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

// A quick look: one queue depth and request size that most disks are near their best with.
DiskSpeed quick_disk_speed(const fs::path& directory, std::int64_t free_bytes) {
  return measure_disk_speed({.directory = directory,
                             .size_bytes = std::min(kDiskTestBytes, free_bytes / 4),
                             .seconds = kDiskTestSeconds,
                             .queue_depths = {8},
                             .request_bytes = {4 * kMiB}});
}

std::string mpi_state() {
  if (!mpi_available()) return "not in this build";
  return !find_program("mpirun").empty() ? "ready" : "mpirun is not on PATH";
}

int numa_nodes() {
  std::error_code error;
  int count = 0;
  for (const auto& entry : fs::directory_iterator("/sys/devices/system/node", error)) {
    const std::string name = entry.path().filename().string();
    count +=
        name.size() > 4 && name.starts_with("node") && name[4] >= '0' && name[4] <= '9' ? 1 : 0;
  }
  return std::max(count, 1);
}

// A finding, with advice if it hinders a run.
struct Check {
  std::string name, found, advice{};
};

struct GpuFinding {
  GpuInfo gpu;
  double bf16_flops = 0, to_gpu_bytes_per_s = 0, to_host_bytes_per_s = 0;
  double memory_bytes_per_s = 0;  // read and written
};

// Measures GPU number `index` in a thread of its own, because a thread's streams belong to one GPU.
GpuFinding measure_gpu(const GpuDriver& driver, int index) {
  constexpr std::int64_t kSize = 8192, kCopied = 256 * kMiB;
  driver.choose(index);
  GpuFinding f{.gpu = driver.current()};
  f.bf16_flops = matmul_rate(DeviceKind::kGpu, kSize, kSize, kSize, DType::kBF16);
  const auto arena = Arena::make_gpu(kCopied, kCopied);
  const Reservation device = arena->reserve(MemoryTag::kIo, kCopied, "copied"),
                    host = arena->pinned().reserve(MemoryTag::kIo, kCopied, "copied");
  const auto rate = [&](auto&& copy) {
    copy();  // touches the memory
    const std::int64_t start = steady_now_ns();
    copy();
    return static_cast<double>(kCopied) / (static_cast<double>(steady_now_ns() - start) * 1e-9);
  };
  f.to_gpu_bytes_per_s =
      rate([&] { driver.memory->from_host(device.data(), host.data(), kCopied); });
  f.to_host_bytes_per_s =
      rate([&] { driver.memory->to_host(host.data(), device.data(), kCopied); });
  const std::int64_t half = kCopied / 2;
  const KernelTable& gpu_kernels = kernels(arena->device());
  f.memory_bytes_per_s = rate([&] {
    gpu_kernels.copy(static_cast<char*>(device.data()) + half, device.data(), half);
    driver.memory->wait();
  });
  return f;
}

std::vector<GpuFinding> find_gpus() {
  std::vector<GpuFinding> found;
  for (int i = 0; i < gpu_count(); ++i)
    found.push_back(std::async(std::launch::async, measure_gpu, *gpu_driver(), i).get());
  return found;
}

struct Findings {
  Machine machine = probe_machine();
  std::int64_t disk_free = 0;
  DiskSpeed disk;
  std::string engine, why_unregistered, disk_problem, mpi = mpi_state();
  int nodes = numa_nodes();
  double bf16_gflops = 0, f32_gflops = 0;
  std::vector<MatmulPeak> peaks = measure_matmul_peaks(team_threads());
  std::vector<GpuFinding> gpus = find_gpus();
};

Findings find(const fs::path& directory) {
  Findings f;
  f.disk_free = disk_free_bytes(directory);
  const auto memory = std::make_unique<std::byte[]>(kRegisteredBytes);
  const auto files = make_file_engine({.registered = {memory.get(), kRegisteredBytes}});
  f.engine = files->name();
  f.why_unregistered = files->why_unregistered();
  try {
    f.disk.file_system = file_system_of(directory);
    f.disk = quick_disk_speed(directory, f.disk_free);
  } catch (const std::exception& e) {
    f.disk_problem = e.what();
  }
  f.bf16_gflops = best_gflops(DType::kBF16);
  f.f32_gflops = best_gflops(DType::kF32);
  return f;
}

Check cpu_check(const CpuModel& cpu) {
  Check check{"cpu", fmt::format("{}: {}; in use: {}", cpu.brand, cpu.isa(), cpu_isa())};
  if (!cpu.avx512_bf16 && !cpu.amx_bf16) {
    check.advice = "bf16 matmuls are computed in f32: model.dtype = \"fp32\" is as fast";
  }
  return check;
}

Check matmul_check(const Findings& f) {
  std::string peaks;
  for (const MatmulPeak& peak : f.peaks) {
    peaks += fmt::format("{}{} {:.0f}", peaks.empty() ? "" : ", ", path_name(peak.path),
                         peak.flops_per_s / 1e9);
  }
  return {
      "matmuls",
      fmt::format("{:.0f} GFLOP/s bf16 (path {}), {:.0f} GFLOP/s f32; peaks of instructions: {}",
                  f.bf16_gflops, path_name(matmul_path()), f.f32_gflops, peaks),
      matmul_advice(f.peaks)};
}

Check cores_check(const CpuLimit& cores) {
  Check check{"threads",
              fmt::format("{} of {} cores ({})", cores.usable, cores.online, cores.bound_by)};
  if (cores.usable < cores.online) {
    check.advice = fmt::format("raise the {} to use them all", cores.bound_by);
  }
  return check;
}

Check disk_check(const Findings& f, const fs::path& directory) {
  Check check{"disk", fmt::format("{} free in {}", format_bytes(f.disk_free), directory.string())};
  if (!f.disk_problem.empty()) {
    check.advice = f.disk_problem + "; choose another place with output_dir";
    return check;
  }
  const DiskRates& rates = f.disk.best;
  check.found += fmt::format(
      " on {}, written at {:.0f} MB/s, read at {:.0f} MB/s, both at once at {:.0f} MB/s{}",
      f.disk.file_system.name, rates.write / 1e6, rates.read / 1e6, rates.mixed / 1e6,
      f.disk.direct ? "" : ", through the page cache");
  check.advice = file_system_warning(f.disk.file_system, directory);
  if (check.advice.empty() && f.disk_free < kLittleDiskBytes) {
    check.advice = "little room for checkpoints: `thimble plan` says what a job writes";
  }
  return check;
}

Check gpu_check(const GpuFinding& f) {
  const auto peak = datasheet_bf16_flops(f.gpu.name);
  Check check{
      "GPU",
      fmt::format("{} (compute {}.{}): {} free of {}, {:.0f} TFLOP/s bf16{}, memory {:.0f} "
                  "GB/s, copies to it {:.1f} GB/s, from it {:.1f} GB/s",
                  f.gpu.name, f.gpu.major, f.gpu.minor, format_bytes(f.gpu.free_bytes),
                  format_bytes(f.gpu.total_bytes), f.bf16_flops / 1e12,
                  peak ? fmt::format(" of {:.0f}", *peak / 1e12) : "", f.memory_bytes_per_s / 1e9,
                  f.to_gpu_bytes_per_s / 1e9, f.to_host_bytes_per_s / 1e9)};
  if (f.gpu.major < 8) check.advice = "no bf16 in hardware: compute capability 8.0 is the least";
  return check;
}

std::vector<Check> checks_of(const Findings& f, const fs::path& directory) {
  const MemoryLimit& memory = f.machine.memory;
  const bool huge = huge_pages();
  std::vector<Check> checks{
      cpu_check(f.machine.cpu),
      cores_check(f.machine.cores),
      matmul_check(f),
      {"memory", fmt::format("{} in all, {} usable (limited by: {}), budget by default {}",
                             format_bytes(memory.total_bytes), format_bytes(memory.usable_bytes),
                             memory.bound_by, format_bytes(memory.default_budget_bytes()))},
      {"pages", huge ? "transparent huge pages" : "no transparent huge pages",
       huge ? ""
            : "the first touch of memory is slower: write madvise to "
              "/sys/kernel/mm/transparent_hugepage/enabled"},
      {"NUMA", fmt::format("{} node{}", f.nodes, f.nodes == 1 ? "" : "s"),
       f.nodes == 1 ? "" : fmt::format("start one rank a node: thimble launch -n {}", f.nodes)},
      disk_check(f, directory),
      {"io", f.engine, f.why_unregistered},
      {"MPI", f.mpi, f.mpi == "ready" ? "" : "install openmpi-bin to train on several processes"},
      {"kernel", f.machine.kernel},
  };
  for (const GpuFinding& gpu : f.gpus) checks.push_back(gpu_check(gpu));
  if (f.gpus.empty())
    checks.push_back(
        {"GPU", gpu_driver() == nullptr ? "not in this build" : "none found; device = \"cpu\""});
  return checks;
}

void print_json(const Findings& f, const std::vector<Check>& checks) {
  const Machine& m = f.machine;
  nlohmann::ordered_json out{{"version", thimble_version()},
                             {"cpu", m.cpu.brand},
                             {"isa", m.cpu.isa()},
                             {"isa_in_use", cpu_isa()},
                             {"kernel", m.kernel},
                             {"cores_usable", m.cores.usable},
                             {"numa_nodes", f.nodes},
                             {"memory_bytes", m.memory.total_bytes},
                             {"memory_usable_bytes", m.memory.usable_bytes},
                             {"budget_bytes", m.memory.default_budget_bytes()},
                             {"memory_bound_by", m.memory.bound_by},
                             {"disk_free_bytes", f.disk_free},
                             {"disk_file_system", f.disk.file_system.name},
                             {"disk_direct", f.disk.direct},
                             {"disk_write_mb_per_s", f.disk.best.write / 1e6},
                             {"disk_read_mb_per_s", f.disk.best.read / 1e6},
                             {"disk_mixed_mb_per_s", f.disk.best.mixed / 1e6},
                             {"file_engine", f.engine},
                             {"mpi", f.mpi},
                             {"bf16_gflops", f.bf16_gflops},
                             {"f32_gflops", f.f32_gflops},
                             {"matmul_path", path_name(matmul_path())},
                             {"peak_gflops", nlohmann::ordered_json::object()},
                             {"gpus", nlohmann::ordered_json::array()},
                             {"warnings", nlohmann::ordered_json::array()}};
  for (const MatmulPeak& peak : f.peaks)
    out["peak_gflops"][path_name(peak.path)] = peak.flops_per_s / 1e9;
  for (const GpuFinding& g : f.gpus) {
    out["gpus"].push_back({{"name", g.gpu.name},
                           {"memory_bytes", g.gpu.total_bytes},
                           {"memory_free_bytes", g.gpu.free_bytes},
                           {"bf16_tflops", g.bf16_flops / 1e12},
                           {"memory_gb_per_s", g.memory_bytes_per_s / 1e9},
                           {"to_gpu_gb_per_s", g.to_gpu_bytes_per_s / 1e9},
                           {"to_host_gb_per_s", g.to_host_bytes_per_s / 1e9}});
  }
  for (const Check& check : checks) {
    if (!check.advice.empty()) out["warnings"].push_back(check.name + ": " + check.advice);
  }
  fmt::print("{}\n", out.dump());
}

void run_doctor(const DoctorArguments& a) {
  const Findings found = find(a.directory);
  const std::vector<Check> checks = checks_of(found, a.directory);
  if (a.json) {
    print_json(found, checks);
    return;
  }
  print_version(false);
  for (const Check& check : checks) {
    fmt::print("{}  {:<8}  {}\n", check.advice.empty() ? "PASS" : "WARN", check.name, check.found);
    if (!check.advice.empty()) fmt::print("{:16}{}\n", "", check.advice);
  }
}

}  // namespace

void add_doctor_command(CLI::App& app, CommandSession& session) {
  auto a = std::make_shared<DoctorArguments>();
  CLI::App* doctor =
      app.add_subcommand("doctor", "Check this machine: processor, memory, disk, libraries, speed");
  doctor->add_option("--dir", a->directory, "Where runs will be written: its disk is measured")
      ->check(CLI::ExistingDirectory);
  doctor->add_flag("--json", a->json, "One JSON object");
  doctor->footer("Examples:\n  thimble doctor\n  thimble doctor --dir /scratch --json");
  doctor->callback([a, &session] {
    session.start();
    run_doctor(*a);
  });
}

}  // namespace thimble
