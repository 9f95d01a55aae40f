// Whether there is room for what a run keeps on disk, and how several disks share it.
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/numeric.h"
#include "core/io/file_system.h"
#include "launcher/commands/choose_checkpoint.h"
#include "launcher/commands/offload_place.h"
#include "launcher/plan/machine_rates.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

bool on_one_disk(const fs::path& a, const fs::path& b) {
  struct stat of_a {
  }, of_b{};
  return ::stat(a.c_str(), &of_a) == 0 && ::stat(b.c_str(), &of_b) == 0 &&
         of_a.st_dev == of_b.st_dev;
}

FileSystem require_local_disk(const Prepared& p, const fs::path& directory) {
  const FileSystem system = file_system_of(directory);
  if ((system.in_memory || system.on_network) && !p.job.offload.any_file_system) {
    throw_user(
        "{}: it is on {}, which is {}; what is offloaded belongs on a local disk; "
        "offload.any_file_system = true allows this one",
        key_and_path(p, directory), system.name, system.in_memory ? "memory" : "a network");
  }
  return system;
}

void require_room(const Prepared& p, const fs::path& directory, std::int64_t wanted,
                  const char* beside) {
  const FileSystem system = require_local_disk(p, directory);
  if (system.free_bytes >= wanted) return;
  const std::int64_t slots = p.spec.offload.slots;
  throw_user(
      "{}: {} are free, and the state takes {} ({} of {} each{}){}; offload.path can be on another "
      "disk",
      key_and_path(p, directory), format_bytes(system.free_bytes), format_bytes(wanted), slots,
      format_bytes(p.plan.checkpoint_bytes), beside,
      slots == 2 ? "; offload.slots = 1 takes one less" : "");
}

// What is taken of a disk.
struct Wanted {
  std::int64_t state = 0, gradients = 0, activations = 0;
};

void require_room_beside(const Prepared& p, const fs::path& directory, const Wanted& wanted) {
  const std::int64_t left = file_system_of(directory).free_bytes - wanted.state;
  if (left >= wanted.gradients + wanted.activations) return;
  const char* const beside = wanted.state > 0 ? " beside the state" : "";
  if (left < wanted.gradients) {
    throw_user("{}: {} are free{}, and the gradients take {}; offload.path can be on another disk",
               key_and_path(p, directory), format_bytes(left), beside,
               format_bytes(wanted.gradients));
  }
  throw_user(
      "{}: {} are free{}, and the activations of a micro-batch take {}; a smaller "
      "training.micro_batch_size takes less",
      key_and_path(p, directory), format_bytes(left - wanted.gradients),
      wanted.gradients > 0 ? " beside the state and the gradients" : beside,
      format_bytes(wanted.activations));
}

}  // namespace

void OffloadPlace::require_places(const Prepared& p, int ranks) const {
  if (!has_state_) {
    for (const fs::path& directory : directories_) require_local_disk(p, directory);
  } else {
    require_state_room(p);
  }
  for (std::size_t i = 0; i < directories_.size(); ++i) {
    const auto part = [&](std::int64_t bytes) {
      return static_cast<std::int64_t>(share_of(p, i) * static_cast<double>(ranks * bytes));
    };
    require_room_beside(p, directories_[i],
                        {.state = has_state_ ? state_bytes(p, i) : 0,
                         .gradients = part(p.plan.gradient_disk_bytes),
                         .activations = part(p.plan.activations.disk_bytes)});
  }
}

// The part of all that is put on several disks.
double OffloadPlace::share_of(const Prepared& p, std::size_t disk) const {
  const std::vector<double>& rates = p.spec.offload.disk_rates;
  if (directories_.size() == 1) return 1;
  return rates.at(disk) / std::accumulate(rates.begin(), rates.end(), 0.0);
}

// What the state takes of a disk.
std::int64_t OffloadPlace::state_bytes(const Prepared& p, std::size_t disk) const {
  const std::int64_t slot = p.plan.checkpoint_bytes, slots = p.spec.offload.slots;
  if (directories_.size() > 1) {
    if (is_recovered()) return 0;  // it is there
    return static_cast<std::int64_t>(share_of(p, disk) * static_cast<double>(slots * slot));
  }
  // Checkpoints share the files of the state, so that one more is written meanwhile.
  const std::int64_t saved = on_one_disk(directories_[disk], p.run) ? 1 : 0;
  return is_recovered() ? saved * slot : (slots + saved) * slot;
}

void OffloadPlace::require_state_room(const Prepared& p) const {
  const fs::path& first = directories_.front();
  const bool saved = directories_.size() == 1 && on_one_disk(first, p.run);
  const char* const beside = directories_.size() > 1 ? ", over all paths"
                             : saved                 ? ", and one for a checkpoint"
                                                     : "";
  for (std::size_t i = 0; i < directories_.size(); ++i)
    require_room(p, directories_[i], state_bytes(p, i), beside);
  const std::int64_t kept = p.job.checkpoint.save_total_limit,
                     later = state_bytes(p, 0) + (kept - 1) * p.plan.checkpoint_bytes,
                     free_bytes = file_system_of(first).free_bytes;
  if (leads_ && saved && free_bytes < later) {
    spdlog::warn(
        "{}: {} are free, and with {} checkpoints the state takes {}: fewer are kept with "
        "checkpoint.save_total_limit",
        key_and_path(p, first), format_bytes(free_bytes), kept, format_bytes(later));
  }
}

// The shares of several disks; rank 0's word counts.
void OffloadPlace::measure_disks(Communicator& comm, Prepared& p) const {
  for (const fs::path& directory : directories_) {
    std::int64_t rate = 1;
    try {
      if (leads_) rate = std::max<std::int64_t>(1, std::llround(short_disk_rate(directory)));
    } catch (const std::runtime_error& e) {
      spdlog::warn("{}: the disk was not measured, and takes an equal share: {}",
                   directory.string(), e.what());
      rate = 0;
    }
    rate = from_leader(comm, "the rate of a disk", rate);
    p.spec.offload.disk_rates.push_back(static_cast<double>(rate));
  }
  std::vector<double>& rates = p.spec.offload.disk_rates;
  if (std::find(rates.begin(), rates.end(), 0.0) != rates.end()) rates.assign(rates.size(), 1.0);
}

}  // namespace thimble
