#include "launcher/commands/bench_offload.h"

#include <unistd.h>

#include <CLI/CLI.hpp>

#include "core/base/error.h"
#include "core/io/file.h"
#include "core/ops/op_observer.h"
#include "launcher/job/sizes.h"
#include "offload/state_cache.h"
#include "parallel/collectives.h"

namespace thimble {

void add_offload_options(CLI::App& bench, OffloadBench& offload) {
  bench
      .add_option("--offload", offload.directory,
                  "Keep masters and optimizer state on disk, in this directory")
      ->check(CLI::ExistingDirectory);
  bench.add_flag("--offload-weights", offload.weights, "Weights are on disk too")
      ->needs("--offload");
  bench.add_flag("--offload-gradients", offload.gradients, "Gradients wait on disk too")
      ->needs("--offload");
  bench.add_flag("--delayed-update", offload.delayed_update, "Update under the next forward pass")
      ->needs("--offload");
  bench.add_option("--slots", offload.slots, "Copies of the state on disk: 2, or 1 in place")
      ->check(CLI::Range(1, 2));
  bench
      .add_option("--cache", offload.cache,
                  "Memory for state on disk, which is then not read: a size as 1GiB")
      ->needs("--offload");
  bench
      .add_option("--commit-steps", offload.commit_steps,
                  "Steps from one commit of the state on disk to the next")
      ->check(CLI::PositiveNumber)
      ->needs("--offload");
}

void add_host_options(CLI::App& bench, OffloadBench& offload) {
  bench.add_flag("--host-state", offload.host_state,
                 "Keep masters and optimizer state in the memory of the GPU's host");
  bench.add_flag("--host-gradients", offload.host_gradients, "Gradients wait on the host too")
      ->needs("--host-state");
  bench
      .add_option("--gpu-share", offload.gpu_share,
                  "Of the updates, 0 to 1; the host's CPU has the others")
      ->check(CLI::Range(0.0, 1.0))
      ->needs("--host-state");
}

OffloadSpec offload_spec(const OffloadBench& offload) {
  const std::optional<job::ByteSize> cache = job::parse_size(offload.cache);
  if (!cache) throw_user("--cache '{}': a size as 512MiB or 1GiB is needed", offload.cache);
  return {.state = !offload.directory.empty(),
          .weights = offload.weights,
          .gradients = offload.gradients,
          .host_state = offload.host_state,
          .host_gradients = offload.host_gradients,
          .gpu_share = offload.gpu_share,
          .delayed_update = offload.delayed_update,
          .directory = {},
          .slots = offload.slots,
          .cache_bytes = cache->bytes,
          .commit_steps = offload.commit_steps};
}

BenchDirectory::BenchDirectory(const std::string& parent, Communicator& comm) {
  if (parent.empty()) return;
  std::int64_t process = ::getpid();
  broadcast(comm, "the directory", 0, std::as_writable_bytes(std::span(&process, 1)));
  path_ = std::filesystem::path(parent) / fmt::format("thimble-bench-{}", process);
  std::filesystem::create_directories(path_);
}

BenchDirectory::~BenchDirectory() {
  if (!path_.empty()) remove_tree(path_);
}

UpdateMeter::UpdateMeter(AssembledEngine& assembled) : assembled_(assembled) {
  assembled.engine.set_phase_hook([this](const char* name, bool begins) {
    // A state on disk is updated when it is whole there.
    if (std::string_view(name) != "update" && std::string_view(name) != "commit") return;
    if (begins) {
      began_ns_ = steady_now_ns();
      began_ = traffic();
    } else {
      of_updates_ += traffic() - began_;
      update_ns_ += steady_now_ns() - began_ns_;
    }
  });
}

DiskTraffic UpdateMeter::traffic() const {
  return assembled_.disk_traffic();
}

void UpdateMeter::begin() {
  update_ns_ = 0;
  of_updates_ = {};
  before_ = traffic();
  host_before_ = assembled_.host_traffic();
}

std::vector<std::pair<std::string, double>> UpdateMeter::results(std::size_t steps) const {
  const double seconds = static_cast<double>(update_ns_) * 1e-9;
  const auto each = static_cast<double>(steps);
  if (assembled_.hosted != nullptr) {
    const HostTraffic moved = assembled_.host_traffic() - host_before_;
    return {{"update_s", seconds / each},
            {"to_gpu_bytes", static_cast<double>(moved.to_gpu) / each},
            {"to_host_bytes", static_cast<double>(moved.to_host) / each}};
  }
  if (!assembled_.offload) return {{"update_s", seconds / each}};
  const OffloadHome& home = *assembled_.offload->home();
  const std::int64_t cached = cache_bytes(home.table(), home.rank(), home.cached());
  const DiskTraffic now = traffic();
  const auto read = static_cast<double>(now.read - before_.read),
             written = static_cast<double>(now.written - before_.written);
  std::vector<std::pair<std::string, double>> all{{"disk_read_bytes", read / each},
                                                  {"disk_written_bytes", written / each},
                                                  {"cache_bytes", static_cast<double>(cached)}};
  const EngineOptions& options = assembled_.engine.options();
  if (options.delayed_update || options.fused_backward) return all;
  all.emplace_back("update_s", seconds / each);
  all.emplace_back("update_disk_mb_per_s",
                   static_cast<double>(of_updates_.total()) / seconds / 1e6);
  return all;
}

}  // namespace thimble
