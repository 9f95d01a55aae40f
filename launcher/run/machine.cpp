#include "launcher/run/machine.h"

#include <cpuid.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "launcher/run/cgroup.h"

namespace thimble {
namespace {

int affinity_cores(int online) {
  cpu_set_t set;
  CPU_ZERO(&set);
  // Fails on machines with more cores than cpu_set_t holds (1024): then nothing is known to bind
  // us.
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return online;
  return std::max(1, CPU_COUNT(&set));
}

std::string brand_of(const SystemRoots& roots) {
  std::istringstream lines(read_kernel_file(roots.proc / "cpuinfo"));
  for (std::string line; std::getline(lines, line);) {
    const auto colon = line.find(": ");
    if (line.compare(0, 10, "model name") == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "unknown CPU";
}

/// Whether the kernel keeps the AMX tile registers across context switches (XCR0 bits 17 and 18).
bool kernel_saves_tiles() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & bit_OSXSAVE) == 0) return false;
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kTileState = 3u << 17;
  return (low & kTileState) == kTileState;
}

bool cpu_has_amx_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kAmxBf16 = 1u << 22;
  constexpr unsigned kAmxTile = 1u << 24;
  return (edx & kAmxBf16) != 0 && (edx & kAmxTile) != 0 && kernel_saves_tiles();
}

std::int64_t status_bytes(const std::string& status, const std::string& key) {
  return find_number(status, key).value_or(0) * kKiB;
}

}  // namespace

std::int64_t MemoryLimit::default_budget_bytes() const {
  return usable_bytes / 10 * 9;
}

std::string CpuModel::isa() const {
  std::vector<std::string> names;
  if (avx2) names.emplace_back("avx2");
  if (avx512) names.emplace_back("avx512");
  if (avx512_bf16) names.emplace_back("avx512_bf16");
  if (amx_bf16) names.emplace_back("amx_bf16");
  return join(names, " ");
}

CpuLimit cpu_limit(const SystemRoots& roots) {
  CpuLimit limit;
  limit.online = std::max(1, static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)));
  limit.affinity = affinity_cores(limit.online);
  limit.quota = read_cgroup_limits(roots).cpu_quota;
  limit.usable = limit.affinity;
  limit.bound_by = limit.affinity < limit.online ? "affinity" : "machine";
  if (limit.quota && *limit.quota < limit.affinity) {
    // Rounded down: a team larger than the quota is throttled as a whole and waits in every
    // barrier.
    limit.usable = std::max(1, static_cast<int>(std::floor(*limit.quota)));
    limit.bound_by = "cgroup quota";
  }
  return limit;
}

MemoryLimit memory_limit(const SystemRoots& roots) {
  const std::string text = read_kernel_file(roots.proc / "meminfo");
  const auto total = find_number(text, "MemTotal:");
  const auto available = find_number(text, "MemAvailable:");
  if (!total || !available) {
    throw_system("{}: no MemTotal or MemAvailable line", (roots.proc / "meminfo").string());
  }
  MemoryLimit limit;
  limit.total_bytes = *total * kKiB;
  limit.free_bytes = *available * kKiB;
  const CgroupLimits cgroup = read_cgroup_limits(roots);
  limit.cgroup_limit_bytes = cgroup.memory_limit_bytes;
  limit.cgroup_free_bytes = cgroup.memory_free_bytes;
  limit.usable_bytes = limit.free_bytes;
  limit.bound_by = "free memory";
  if (limit.cgroup_free_bytes && *limit.cgroup_free_bytes < limit.free_bytes) {
    limit.usable_bytes = *limit.cgroup_free_bytes;
    limit.bound_by = "cgroup limit";
  }
  return limit;
}

CpuModel cpu_model(const SystemRoots& roots) {
  __builtin_cpu_init();
  CpuModel model;
  model.brand = brand_of(roots);
  model.avx2 = __builtin_cpu_supports("avx2") != 0;
  model.avx512 = __builtin_cpu_supports("avx512f") != 0 &&
                 __builtin_cpu_supports("avx512bw") != 0 &&
                 __builtin_cpu_supports("avx512cd") != 0 &&
                 __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
  model.avx512_bf16 = model.avx512 && __builtin_cpu_supports("avx512bf16") != 0;
  model.amx_bf16 = cpu_has_amx_bf16();
  return model;
}

Machine probe_machine() {
  Machine machine;
  utsname name{};
  if (::uname(&name) == 0) {
    machine.host = name.nodename;
    machine.kernel = fmt::format("{} {}", name.sysname, name.release);
  }
  machine.cpu = cpu_model();
  machine.cores = cpu_limit();
  machine.memory = memory_limit();
  return machine;
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

std::filesystem::path find_program(const std::string& name) {
  if (name.find('/') != std::string::npos)
    return ::access(name.c_str(), X_OK) == 0 ? std::filesystem::path(name) : "";
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::filesystem::path candidate = std::filesystem::path(folder) / name;
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return {};
}

std::int64_t disk_free_bytes(const std::filesystem::path& path) {
  struct statvfs facts {};
  if (::statvfs(path.c_str(), &facts) != 0) throw_errno("statvfs", path.string());
  return narrow<std::int64_t>(facts.f_bavail * facts.f_frsize);
}

ResidentMemory resident_memory() {
  const std::string status = read_kernel_file("/proc/self/status");
  ResidentMemory memory{status_bytes(status, "VmRSS:"), status_bytes(status, "VmHWM:")};
  // The two counters are read at slightly different moments.
  memory.peak_bytes = std::max(memory.peak_bytes, memory.now_bytes);
  return memory;
}

bool reset_resident_peak() {
  std::ofstream file("/proc/self/clear_refs");
  file << 5;  // proc(5): reset the peak resident set size
  file.flush();
  return file.good();
}

}  // namespace thimble
