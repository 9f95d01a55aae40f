// `thimble doctor`: what this machine offers, and what is in the way.
#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/base/numeric.h"
#include "core/io/file_engine.h"
#include "core/ops/kernel_table.h"
#include "core/ops/op_observer.h"
#include "launcher/commands/command.h"
#include "launcher/commands/version.h"
#include "launcher/engine/speed_of_light.h"
#include "launcher/run/machine.h"
#include "parallel/mpi_world.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kLittleDiskBytes = 5 * kGiB;
constexpr std::int64_t kDiskTestBytes = 64 * kMiB;

struct DoctorArguments {
  std::string directory = ".";
  bool json = false;
};

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

struct DiskSpeed {
  double write_mb_per_s = 0, read_mb_per_s = 0;
};

// A file of `bytes` written, made durable and read back; what is still in the page cache is dropped
// before the read.
DiskSpeed disk_speed(FileEngine& engine, const fs::path& directory, std::int64_t bytes) {
  const fs::path path = directory / fmt::format(".thimble-doctor-{}", ::getpid());
  struct Remove {
    const fs::path& path;
    ~Remove() {
      std::error_code ignored;
      fs::remove(path, ignored);
    }
  } const remove{path};
  std::vector<std::byte> data(static_cast<std::size_t>(bytes), std::byte{1});
  const File file = File::create(path);
  const auto rate = [bytes](std::int64_t start) {
    return static_cast<double>(bytes) / static_cast<double>(steady_now_ns() - start) * 1e3;
  };
  DiskSpeed speed;
  std::int64_t start = steady_now_ns();
  engine.write(file, 0, data);
  file.data_sync();
  speed.write_mb_per_s = rate(start);
  file.drop_cache(0, bytes);
  start = steady_now_ns();
  engine.read(file, 0, data);
  speed.read_mb_per_s = rate(start);
  return speed;
}

std::string mpi_state() {
  if (!mpi_available()) return "not in this build";
  return !find_program("mpirun").empty() ? "ready" : "mpirun is not on PATH";
}

void run_doctor(const DoctorArguments& a) {
  const Machine m = probe_machine();
  const std::int64_t disk = disk_free_bytes(a.directory);
  const auto files = make_file_engine();
  const std::string engine(files->name());
  const DiskSpeed speed = disk_speed(*files, a.directory, std::min(kDiskTestBytes, disk / 2));
  const std::string mpi = mpi_state();
  const double bf16 = best_gflops(DType::kBF16), f32 = best_gflops(DType::kF32);
  std::vector<std::string> warnings;
  if (!m.cpu.avx512) warnings.push_back("no AVX-512: bf16 products are computed in f32");
  if (m.cores.usable < m.cores.online) {
    warnings.push_back(fmt::format("only {} of {} cores may be used ({})", m.cores.usable,
                                   m.cores.online, m.cores.bound_by));
  }
  if (disk < kLittleDiskBytes)
    warnings.push_back(fmt::format("only {} of disk is free here", format_bytes(disk)));
  if (engine.find("uring") == std::string::npos)
    warnings.push_back("io_uring is not permitted; files use threads instead");
  if (!huge_pages())
    warnings.push_back("transparent huge pages are off: the first touch of memory is slower");
  if (mpi != "ready")
    warnings.push_back(fmt::format("MPI: {}; install openmpi-bin for several processes", mpi));
  if (a.json) {
    const nlohmann::ordered_json out{{"version", thimble_version()},
                                     {"cpu", m.cpu.brand},
                                     {"isa", m.cpu.isa()},
                                     {"isa_in_use", cpu_isa()},
                                     {"kernel", m.kernel},
                                     {"cores_usable", m.cores.usable},
                                     {"memory_bytes", m.memory.total_bytes},
                                     {"memory_usable_bytes", m.memory.usable_bytes},
                                     {"budget_bytes", m.memory.default_budget_bytes()},
                                     {"memory_bound_by", m.memory.bound_by},
                                     {"disk_free_bytes", disk},
                                     {"disk_write_mb_per_s", speed.write_mb_per_s},
                                     {"disk_read_mb_per_s", speed.read_mb_per_s},
                                     {"file_engine", engine},
                                     {"mpi", mpi},
                                     {"bf16_gflops", bf16},
                                     {"f32_gflops", f32},
                                     {"warnings", warnings}};
    fmt::print("{}\n", out.dump());
    return;
  }
  print_version(false);
  fmt::print("cpu      {}, {} usable cores ({}), {}; in use: {}\n", m.cpu.brand, m.cores.usable,
             m.cores.bound_by, m.cpu.isa(), cpu_isa());
  fmt::print("products {:.0f} GFLOP/s bf16, {:.0f} GFLOP/s f32\n", bf16, f32);
  fmt::print("memory   {} in all, {} usable ({}), budget by default {}\n",
             format_bytes(m.memory.total_bytes), format_bytes(m.memory.usable_bytes),
             m.memory.bound_by, format_bytes(m.memory.default_budget_bytes()));
  fmt::print("disk     {} free in {}, written at {:.0f} MB/s and read at {:.0f} MB/s through {}\n",
             format_bytes(disk), a.directory, speed.write_mb_per_s, speed.read_mb_per_s, engine);
  fmt::print("MPI      {}\n", mpi);
  fmt::print("kernel   {}\n", m.kernel);
  for (const std::string& w : warnings) fmt::print("warning: {}\n", w);
  if (warnings.empty()) fmt::print("nothing is in the way\n");
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
