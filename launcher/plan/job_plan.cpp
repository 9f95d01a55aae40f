#include "launcher/plan/job_plan.h"

#include <spdlog/spdlog.h>

#include "core/device/gpu.h"
#include "core/io/file_system.h"
#include "launcher/plan/plan_refusal.h"
#include "launcher/run/machine.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

Budget gpu_budget(int sharing) {
  if (gpu_count() == 0)
    throw_user("device = \"cuda\": no GPU here to ask for its memory; set memory.budget");
  return {gpu_driver()->current().free_bytes / 10 * 9 / sharing,
          fmt::format("90 % of the GPU's free memory, for {} rank{}", sharing,
                      sharing == 1 ? "" : "s")};
}

// What is said of the disks of all nodes, or free on those of ranks that all run here; none where
// something else refuses them.
std::optional<DiskBudget> disk_budget(const job::JobConfig& job, const RankPlace& place) {
  std::vector<fs::path> paths = offload_paths(job.offload);
  const bool own = paths.empty();
  if (place.node_disk_bytes > 0)
    return DiskBudget{.bytes = place.node_disk_bytes * ceil_div(place.ranks, place.ranks_on_node),
                      .checkpoints = own ? 1 : 0};
  if (place.ranks > place.ranks_on_node) return std::nullopt;
  if (own) paths.emplace_back(job.output_dir);
  DiskBudget found{.bytes = 0, .checkpoints = own ? 1 : 0};
  for (const fs::path& path : paths) {
    fs::path there = existing_part(path);
    if (there.empty()) there = ".";
    try {
      found.bytes += file_system_of(there).free_bytes;
    } catch (const std::runtime_error&) {
      return std::nullopt;
    }
  }
  return found;
}

// Of memory that is said; other things live there too.
std::int64_t part_of_node(const RankPlace& place) {
  return place.node_memory_bytes / 10 * 9 / place.ranks_on_node;
}

[[noreturn]] void refuse_on_host(const TrainPlan& plan, const RankPlace& place) {
  throw_user(
      "offload.state = \"host\": a rank keeps {} on its host, of whose memory {} are allowed (90 % "
      "of what is free{}); nothing was started. offload.state = \"ssd\" needs little of it",
      format_bytes(plan.memory.host_bytes), format_bytes(*plan.budget.host_bytes),
      place.ranks_on_node == 1 ? "" : fmt::format(", for {} ranks", place.ranks_on_node));
}

}  // namespace

Budget resolve_budget(const job::AutoBytes& budget, DeviceKind device, const RankPlace& place) {
  if (budget.value) return {budget.value->bytes, "memory.budget"};
  if (device == DeviceKind::kCpu && place.node_memory_bytes > 0)
    return {part_of_node(place),
            fmt::format("90 % of a node's memory, for {} rank{}", place.ranks_on_node,
                        place.ranks_on_node == 1 ? "" : "s")};
  if (device == DeviceKind::kGpu) return gpu_budget(place.on_gpu);
  const MemoryLimit limit = memory_limit();
  const std::string bound = "90 % of " + limit.bound_by;
  if (place.ranks_on_node == 1) return {limit.default_budget_bytes(), bound};
  return {limit.default_budget_bytes() / place.ranks_on_node,
          fmt::format("{}, for {} ranks", bound, place.ranks_on_node)};
}

std::vector<fs::path> offload_paths(const job::OffloadConfig& offload) {
  if (!offload.path.empty()) return {offload.path};
  return {offload.paths.begin(), offload.paths.end()};
}

fs::path existing_part(fs::path path) {
  std::error_code ignored;
  while (!fs::exists(path, ignored) && path.has_relative_path()) path = path.parent_path();
  return path;
}

Budget budget_of(const job::JobConfig& job, DeviceKind device, const RankPlace& place) {
  Budget budget = resolve_budget(job.memory.budget, device, place);
  // Of the memory of other machines nothing is known, and one without a GPU is not the GPU's host.
  if (device == DeviceKind::kGpu && place.node_memory_bytes > 0) {
    budget.host_bytes = part_of_node(place);
  } else if (device == DeviceKind::kGpu && gpu_count() > 0 && place.ranks <= place.ranks_on_node) {
    budget.host_bytes = memory_limit().default_budget_bytes() / place.ranks_on_node;
  }
  budget.disk = disk_budget(job, place);
  return budget;
}

TrainPlan plan_job(const TrainSpec& spec, const job::JobConfig& job, const RankPlace& place,
                   IfTooLarge if_too_large, const Rates& rates) {
  TrainPlan plan = plan_training(spec, budget_of(job, spec.device, place), place, rates);
  if (spec.snapshots && plan.offload.state)
    throw_user(
        "checkpoint.memory_steps = {}: allowed with state in memory; on disk (offload.state) each "
        "commit outlives the ranks as it is",
        job.checkpoint.memory_steps);
  if (is_too_large_for_host(plan)) {
    plan.fits = false;
    if (if_too_large == IfTooLarge::kRefuse) refuse_on_host(plan, place);
  }
  if (!plan.fits && if_too_large == IfTooLarge::kRefuse)
    refuse_plan({settled(spec, plan, place), job, place}, plan.memory, plan.budget);
  return plan;
}

}  // namespace thimble
