#include "launcher/commands/bench_offload.h"

#include <unistd.h>

#include "core/io/file.h"
#include "core/ops/op_observer.h"
#include "parallel/collectives.h"

namespace thimble {

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
    } else {
      update_ns_ += steady_now_ns() - began_ns_;
    }
  });
}

DiskTraffic UpdateMeter::traffic() const {
  return assembled_.disk_traffic();
}

void UpdateMeter::begin() {
  update_ns_ = 0;
  before_ = traffic();
}

std::vector<std::pair<std::string, double>> UpdateMeter::results(std::size_t steps) const {
  const double seconds = static_cast<double>(update_ns_) * 1e-9;
  const auto each = static_cast<double>(steps);
  if (!assembled_.offload) return {{"update_s", seconds / each}};
  const DiskTraffic now = traffic();
  const auto read = static_cast<double>(now.read - before_.read),
             written = static_cast<double>(now.written - before_.written);
  return {{"update_s", seconds / each},
          {"disk_read_bytes", read / each},
          {"disk_written_bytes", written / each},
          {"update_disk_mb_per_s", (read + written) / seconds / 1e6}};
}

}  // namespace thimble
