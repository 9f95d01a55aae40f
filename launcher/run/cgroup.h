// Reads the limits that control groups (versions 1 and 2, also mixed) put on this process. Used by
// machine.cpp alone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "launcher/run/machine.h"

namespace thimble {

struct CgroupLimits {
  std::optional<double> cpu_quota;  ///< cores' worth of CPU time
  std::optional<std::int64_t>
      memory_limit_bytes;  ///< smallest limit of our group and its ancestors
  std::optional<std::int64_t>
      memory_free_bytes;  ///< smallest (limit - use without reclaimable cache)
};

/// Limits of our group and of every ancestor that is visible; files that are missing or unlimited
/// give none.
CgroupLimits read_cgroup_limits(const SystemRoots& roots);

/// The contents of a small kernel file, empty if it cannot be read.
std::string read_kernel_file(const std::filesystem::path& path);

/// The number after "<key><blanks>" at the start of a line of `text`.
std::optional<std::int64_t> find_number(const std::string& text, const std::string& key);

}  // namespace thimble
