#include "launcher/run/cgroup.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>
#include <vector>

namespace thimble {
namespace {

namespace fs = std::filesystem;

/// Version 1 writes a huge page-rounded number for "no limit"; nothing real comes near it.
constexpr std::int64_t kUnlimited = std::int64_t{1} << 60;

/// One hierarchy this process belongs to.
struct Membership {
  bool version2 = false;
  std::string controllers;  ///< "cpu,cpuacct"; empty for version 2
  std::string path;         ///< "/user.slice/..."
};

std::vector<Membership> memberships(const SystemRoots& roots) {
  std::vector<Membership> result;
  std::istringstream lines(read_kernel_file(roots.proc / "self/cgroup"));
  for (std::string line; std::getline(lines, line);) {
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    result.push_back({controllers.empty(), controllers, line.substr(second + 1)});
  }
  return result;
}

bool lists_controller(const std::string& controllers, const std::string& name) {
  return ("," + controllers + ",").find("," + name + ",") != std::string::npos;
}

/// The directories from our group up to the root of the mounted hierarchy. In a container the path
/// may be the host's and not exist below the mount; the walk then still ends at the root, which is
/// the container's group.
std::vector<fs::path> ancestry(const fs::path& mount, const std::string& group) {
  std::vector<fs::path> result;
  fs::path relative = fs::path(group).relative_path().lexically_normal();
  while (!relative.empty() && relative != "." && *relative.begin() != "..") {
    result.push_back(mount / relative);
    relative = relative.parent_path();
  }
  result.push_back(mount);
  return result;
}

std::optional<std::int64_t> read_number(const fs::path& path) {
  const std::string text = read_kernel_file(path);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end == text.data()) return std::nullopt;
  return value;
}

template <typename T>
void keep_smaller(std::optional<T>& kept, std::optional<T> found) {
  if (found && (!kept || *found < *kept)) kept = found;
}

std::optional<double> quota_at(const fs::path& directory, bool version2) {
  double quota = 0;
  double period = 0;
  if (version2) {
    std::istringstream text(read_kernel_file(directory / "cpu.max"));
    if (!(text >> quota >> period)) return std::nullopt;  // "max 100000"
  } else {
    quota = static_cast<double>(read_number(directory / "cpu.cfs_quota_us").value_or(-1));
    period = static_cast<double>(read_number(directory / "cpu.cfs_period_us").value_or(0));
  }
  if (quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

void add_memory_at(const fs::path& directory, bool version2, CgroupLimits& limits) {
  const auto limit = read_number(directory / (version2 ? "memory.max" : "memory.limit_in_bytes"));
  if (!limit || *limit >= kUnlimited) return;
  const auto used =
      read_number(directory / (version2 ? "memory.current" : "memory.usage_in_bytes")).value_or(0);
  const auto cache = find_number(read_kernel_file(directory / "memory.stat"),
                                 version2 ? "inactive_file" : "total_inactive_file");
  const std::int64_t held = std::max<std::int64_t>(0, used - cache.value_or(0));
  keep_smaller(limits.memory_limit_bytes, limit);
  keep_smaller(limits.memory_free_bytes, std::optional(std::max<std::int64_t>(0, *limit - held)));
}

/// Version 1 mounts a hierarchy under its controllers' names, often with one link per controller.
fs::path version1_mount(const SystemRoots& roots, const Membership& member,
                        const std::string& controller) {
  const fs::path joint = roots.cgroup / member.controllers;
  std::error_code ignored;
  return fs::exists(joint, ignored) ? joint : roots.cgroup / controller;
}

fs::path version2_mount(const SystemRoots& roots) {
  std::error_code ignored;
  const fs::path mixed = roots.cgroup / "unified";
  return fs::exists(mixed, ignored) ? mixed : roots.cgroup;
}

}  // namespace

std::string read_kernel_file(const fs::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  return text.str();
}

std::optional<std::int64_t> find_number(const std::string& text, const std::string& key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.compare(0, key.size(), key) != 0) continue;
    const auto start = line.find_first_not_of(" \t", key.size());
    if (start == std::string::npos || start == key.size()) continue;
    std::int64_t value = 0;
    const auto [end, error] =
        std::from_chars(line.data() + start, line.data() + line.size(), value);
    if (error == std::errc{}) return value;
  }
  return std::nullopt;
}

CgroupLimits read_cgroup_limits(const SystemRoots& roots) {
  CgroupLimits limits;
  for (const Membership& member : memberships(roots)) {
    if (member.version2 || lists_controller(member.controllers, "cpu")) {
      const fs::path mount =
          member.version2 ? version2_mount(roots) : version1_mount(roots, member, "cpu");
      for (const fs::path& directory : ancestry(mount, member.path)) {
        keep_smaller(limits.cpu_quota, quota_at(directory, member.version2));
      }
    }
    if (member.version2 || lists_controller(member.controllers, "memory")) {
      const fs::path mount =
          member.version2 ? version2_mount(roots) : version1_mount(roots, member, "memory");
      for (const fs::path& directory : ancestry(mount, member.path)) {
        add_memory_at(directory, member.version2, limits);
      }
    }
  }
  return limits;
}

}  // namespace thimble
