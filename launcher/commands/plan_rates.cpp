#include "launcher/commands/plan_rates.h"

#include <CLI/CLI.hpp>

#include "core/base/error.h"
#include "core/device/gpu.h"
#include "launcher/plan/machine_rates.h"
#include "plan/time_plan.h"
#include "train/gpu_sharing.h"

namespace thimble {
namespace {

// Ranks that share what is measured.
int sharing_of(DeviceKind device, const MachineArguments& a) {
  return device == DeviceKind::kCpu ? a.ranks_on_node : 1;
}

// Ranks of a node take turns at its disk.
void add_disk_rate(const MachineArguments& a, const job::JobConfig& job, KnownRates& known) {
  const int sharing = a.ranks_on_node;
  if (a.disk_gb_per_s) {
    known.rates.disk_bytes_per_s = *a.disk_gb_per_s * 1e9 / sharing;
    known.disk_from = "given";
    return;
  }
  // Another machine's cannot be measured.
  if (a.ranks > a.ranks_on_node || !a.node_disk.empty()) return;
  const KeptRate rate = disk_rate_here(job);
  known.rates.disk_bytes_per_s = rate.value / sharing;
  if (rate.value > 0) known.disk_from = rate.from();
}

void add_matmul_rate(const MachineArguments& a, const TrainSpec& spec, KnownRates& known) {
  if (a.tflops) {
    known.rates.flops_per_s = *a.tflops * 1e12;
    known.flops_from = "given";
    return;
  }
  if (spec.device == DeviceKind::kGpu && gpu_count() == 0)
    throw_user("no GPU here to measure its matmuls: say --tflops");
  const KeptRate rate = matmul_rate_here(spec.device, spec.engine.dtype);
  known.rates.flops_per_s = rate.value / sharing_of(spec.device, a);
  known.flops_from = rate.from();
}

std::int64_t size_of(const std::string& text, const char* option) {
  if (text.empty()) return 0;
  const std::optional<job::ByteSize> size = job::parse_size(text);
  if (!size || size->bytes == 0)
    throw_user("{} {}: allowed is a size above 0, as \"1TB\" or \"900GiB\"", option, text);
  return size->bytes;
}

}  // namespace

RankPlace place_of(const MachineArguments& a) {
  return {.rank = 0,
          .ranks = a.ranks,
          .ranks_on_node = a.ranks_on_node,
          .on_gpu = ranks_on_a_gpu(a.ranks_on_node),
          .node_memory_bytes = size_of(a.node_memory, "--node-memory"),
          .node_disk_bytes = size_of(a.node_disk, "--node-disk")};
}

KnownRates rates_for_plan(const MachineArguments& a, const TrainSpec& spec,
                          const job::JobConfig& job) {
  KnownRates known;
  if (!spec.any_recompute) return known;
  add_matmul_rate(a, spec, known);
  add_disk_rate(a, job, known);
  return known;
}

void add_rates(const MachineArguments& a, const TrainSpec& spec, const job::JobConfig& job,
               const TrainPlan& plan, KnownRates& known) {
  if (known.flops_from.empty()) add_matmul_rate(a, spec, known);
  if (a.gb_per_s) {
    known.rates.bytes_per_s = *a.gb_per_s * 1e9;
    known.bytes_from = "given";
  } else if (a.ranks > 1 && a.ranks <= a.ranks_on_node) {
    known.rates.bytes_per_s = measure_local_exchange_rate();
    known.bytes_from = "measured here";
  }
  if (known.disk_from.empty() && (plan.offload.state || plan.activations.on_disk()))
    add_disk_rate(a, job, known);
}

void add_machine_arguments(CLI::App& plan, MachineArguments& arguments) {
  plan.add_option("--ranks", arguments.ranks, "Plan for one rank of this many")
      ->check(CLI::Range(1, 1 << 20));
  plan.add_option("--ranks-per-node", arguments.ranks_on_node,
                  "Ranks that share the memory of a machine like this one")
      ->check(CLI::Range(1, 1 << 20));
  plan.add_option("--tflops", arguments.tflops,
                  "What a rank's matmuls reach (default: measured here)")
      ->check(CLI::Range(1e-6, 1e6));
  plan.add_option("--gb-per-s", arguments.gb_per_s,
                  "What a rank can send: `mpirun -np 2 thimble bench comm` (default: measured here "
                  "if all ranks are on one node)")
      ->check(CLI::Range(1e-6, 1e6));
  plan.add_option("--disk-gb-per-s", arguments.disk_gb_per_s,
                  "What a node's disks read and write at once, for state on disk: `thimble bench "
                  "disk` (default: measured here)")
      ->check(CLI::Range(1e-6, 1e6));
  plan.add_option("--node-memory", arguments.node_memory,
                  "Memory of a node, as 1TB, of which 90 % are taken without memory.budget "
                  "(default: this machine's)");
  plan.add_option("--node-disk", arguments.node_disk,
                  "What is free on the disks of a node, as 30TB (default: asked here, if all ranks "
                  "are on one node)");
}

}  // namespace thimble
