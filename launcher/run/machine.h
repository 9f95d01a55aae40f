// What the machine is and what of it this process may use: cores under affinity and CPU quota,
// memory under the cgroup's limit, instruction sets, disk space, and this process's own resident
// memory. Read by `doctor`, `plan` and `train`. It only reads: it sets no affinity, reserves
// nothing and chooses no kernel.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace thimble {

/// Where the kernel's files are; tests point it at a copy.
struct SystemRoots {
  std::filesystem::path proc = "/proc";
  std::filesystem::path cgroup = "/sys/fs/cgroup";
};

/// Cores this process may use.
struct CpuLimit {
  int online = 1;               ///< cores of the machine
  int affinity = 1;             ///< cores the scheduler may place us on
  std::optional<double> quota;  ///< cores' worth of time the cgroup grants, none = no limit
  int usable = 1;               ///< min(affinity, quota rounded down), at least 1
  std::string bound_by;         ///< "machine" | "affinity" | "cgroup quota"
};

/// Memory this process may use, in bytes.
struct MemoryLimit {
  std::int64_t total_bytes = 0;                    ///< of the machine
  std::int64_t free_bytes = 0;                     ///< the kernel's MemAvailable
  std::optional<std::int64_t> cgroup_limit_bytes;  ///< the tightest limit at or above our cgroup
  std::optional<std::int64_t>
      cgroup_free_bytes;  ///< that limit less what is used, reclaimable page cache not counted
  std::int64_t usable_bytes = 0;  ///< min(free, cgroup_free)
  std::string bound_by;           ///< "free memory" | "cgroup limit"

  /// 90 % of usable_bytes.
  std::int64_t default_budget_bytes() const;
};

/// Instruction sets that both the CPU and the kernel support.
struct CpuModel {
  std::string brand;
  bool avx2 = false;
  bool avx512 = false;  ///< F, BW, CD, DQ and VL
  bool avx512_bf16 = false;
  bool amx_bf16 = false;

  /// "avx2 avx512 avx512_bf16 amx_bf16", those that are there.
  std::string isa() const;
};

struct Machine {
  std::string host;
  std::string kernel;  ///< "Linux 6.1.0-18-amd64"
  CpuModel cpu;
  CpuLimit cores;
  MemoryLimit memory;
};

CpuLimit cpu_limit(const SystemRoots& roots = {});
/// Throws SystemError if /proc/meminfo cannot be understood.
MemoryLimit memory_limit(const SystemRoots& roots = {});
CpuModel cpu_model(const SystemRoots& roots = {});
Machine probe_machine();

/// Bytes an unprivileged process may still write below `path` (which must exist). Throws
/// SystemError.
std::int64_t disk_free_bytes(const std::filesystem::path& path);

/// As this machine calls itself; empty if it does not say.
std::string host_name();

/// The program of this name in a folder of PATH; empty if there is none.
std::filesystem::path find_program(const std::string& name);

/// Resident memory of this process, in bytes.
struct ResidentMemory {
  std::int64_t now_bytes = 0;
  std::int64_t peak_bytes =
      0;  ///< high-water mark since the start or the last reset_resident_peak()
};
ResidentMemory resident_memory();
/// Sets the high-water mark to the present value; false where the kernel does not allow it.
bool reset_resident_peak();

}  // namespace thimble
