#include "launcher/plan/machine_rates.h"

#include <fmt/core.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>

#include "core/base/numeric.h"
#include "core/base/threads.h"
#include "core/ops/matmul_path.h"
#include "launcher/plan/job_plan.h"
#include "launcher/run/machine.h"
#include "offload/disk_speed.h"
#include "plan/time_plan.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

KeptRate disk_rate_of(const fs::path& directory) {
  struct stat status {};
  if (::stat(directory.c_str(), &status) != 0) return {short_disk_rate(directory)};
  const std::string name =
      fmt::format("disk {} {}", status.st_dev, fs::absolute(directory).string());
  return kept_rate(rates_file(), name, [&] { return short_disk_rate(directory); });
}

}  // namespace

KeptRate matmul_rate_here(DeviceKind device, DType dtype) {
  const auto measure = [&] { return measure_matmul_rate(device, dtype); };
  if (device != DeviceKind::kCpu) return {measure()};
  const std::string name =
      fmt::format("matmul {} {}, {} threads of {} ({})", dtype_name(dtype),
                  path_name(matmul_path()), team_threads(), cpu_model().brand, cpu_model().isa());
  return kept_rate(rates_file(), name, measure);
}

KeptRate disk_rate_here(const job::JobConfig& job) {
  try {
    std::vector<fs::path> paths = offload_paths(job.offload);
    if (paths.empty()) paths.emplace_back(job.output_dir);
    KeptRate all;
    for (const fs::path& where : paths) {
      const fs::path there = existing_part(where);
      const KeptRate one = disk_rate_of(there.empty() ? "." : there);
      all.value += one.value;
      all.age_s = std::max(all.age_s, one.age_s);
    }
    return all;
  } catch (const std::runtime_error& e) {
    spdlog::warn("the disk was not measured: {}", e.what());
    return {};
  }
}

double short_disk_rate(const fs::path& directory) {
  return measure_disk_speed({.directory = directory,
                             .size_bytes = 256 * kMiB,
                             .seconds = 1,
                             .queue_depths = {16},
                             .request_bytes = {4 * kMiB}})
      .best.mixed;
}

}  // namespace thimble
