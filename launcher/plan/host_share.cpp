#include "launcher/plan/host_share.h"

#include "core/device/gpu.h"

namespace thimble {

std::optional<double> measured_gpu_share(const job::JobConfig& job, const TrainPlan& plan,
                                         UpdateRates& rates) {
  if (job.offload.gpu_share || gpu_count() == 0) return std::nullopt;
  if (!rates.are_known()) rates = measure_update_rates();
  return best_gpu_share(rates, plan.updates);
}

std::string host_text(const TrainPlan& plan, const UpdateRates& rates) {
  if (!plan.offload.host_state) return "";
  const std::string time =
      rates.are_known()
          ? fmt::format(
                "; an update takes {:.3g} s at {:.3g} GB/s of updates on the CPU, {:.3g} to "
                "the GPU and {:.3g} back (measured here)",
                update_seconds(rates, plan.updates, plan.gpu_share), rates.cpu_bytes_per_s / 1e9,
                rates.to_gpu_bytes_per_s / 1e9, rates.to_host_bytes_per_s / 1e9)
          : "";
  return fmt::format(
      "\noffload: {}masters and optimizer state on the GPU's host; the GPU has {:.1f} % of the "
      "updates, the CPU the others; every step moves {} to the GPU and {} to the host per rank{}",
      plan.offload.host_gradients ? "gradients, " : "", 100 * plan.gpu_share,
      format_bytes(plan.host.to_gpu), format_bytes(plan.host.to_host), time);
}

}  // namespace thimble
