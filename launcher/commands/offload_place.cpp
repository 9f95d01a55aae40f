#include "launcher/commands/offload_place.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/numeric.h"
#include "core/io/file_system.h"
#include "core/io/staged.h"
#include "data/content_hash.h"
#include "launcher/commands/choose_checkpoint.h"
#include "launcher/plan/job_plan.h"
#include "parallel/collectives.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// Inside the run's directory, or in the user's, under a name that no other run has.
std::vector<fs::path> directories_of(const Prepared& p) {
  ContentHash hash;
  hash.add(fs::absolute(p.run).string());
  std::vector<fs::path> directories;
  for (const fs::path& path : offload_paths(p.job.offload))
    directories.push_back(path / fmt::format("thimble-{}-{:016x}", p.job.name, hash.value64()));
  if (directories.empty()) directories.push_back(p.run / "offload");
  return directories;
}

std::string key_and_path(const Prepared& p, const fs::path& directory) {
  const job::OffloadConfig& offload = p.job.offload;
  if (offload_paths(offload).empty()) return "the run's directory " + directory.string();
  return fmt::format("offload.{} = \"{}\"", offload.paths.empty() ? "path" : "paths",
                     directory.parent_path().string());
}

void make_directory(const fs::path& directory, const Prepared& p) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error)
    throw_user("{}: cannot make {}: {}", key_and_path(p, directory), directory.string(),
               error.message());
}

void require_place(const Prepared& p, const fs::path& directory, std::int64_t wanted) {
  const FileSystem system = file_system_of(directory);
  if ((system.in_memory || system.on_network) && !p.job.offload.any_file_system) {
    throw_user(
        "{}: it is on {}, which is {}; what is offloaded belongs on a local disk: set offload.path "
        "to one, or "
        "offload.any_file_system = true",
        key_and_path(p, directory), system.name, system.in_memory ? "memory" : "a network");
  }
  if (system.free_bytes >= wanted) return;
  const std::int64_t slots = p.spec.offload.slots;
  throw_user("{}: {} are free, and the state takes {} ({} of {} each{}){}",
             key_and_path(p, directory), format_bytes(system.free_bytes), format_bytes(wanted),
             slots, format_bytes(p.plan.checkpoint_bytes),
             p.job.offload.paths.empty() ? ", and one for a checkpoint" : ", over all paths",
             slots == 2 ? "; offload.slots = 1 takes a third less" : "");
}

// What is taken of a disk.
struct Wanted {
  std::int64_t state = 0, activations = 0;
};

void require_activations(const Prepared& p, const fs::path& directory, const Wanted& wanted) {
  const std::int64_t left = file_system_of(directory).free_bytes - wanted.state;
  if (left >= wanted.activations) return;
  throw_user(
      "{}: {} are free{}, and the activations of a micro-batch take {}; a smaller "
      "training.micro_batch_size takes less",
      key_and_path(p, directory), format_bytes(left), wanted.state > 0 ? " beside the state" : "",
      format_bytes(wanted.activations));
}

}  // namespace

void OffloadPlace::require_places(const Prepared& p, int ranks) const {
  const std::vector<double>& rates = p.spec.offload.disk_rates;
  const double all = std::accumulate(rates.begin(), rates.end(), 0.0);
  const std::int64_t slot = p.plan.checkpoint_bytes, slots = p.spec.offload.slots;
  for (std::size_t i = 0; i < directories_.size(); ++i) {
    std::int64_t wanted = is_recovered() ? slot : (slots + 1) * slot;
    if (directories_.size() > 1) {
      const double share = rates.empty() ? 0 : rates[i] / all;
      wanted = static_cast<std::int64_t>(share * static_cast<double>(slots * slot));
    }
    if (!has_state_) wanted = 0;
    require_place(p, directories_[i], wanted);
    if (i == 0)
      require_activations(p, directories_[i], {wanted, ranks * p.plan.activations.disk_bytes});
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

// Looks for a state that is newer than the checkpoint.
void OffloadPlace::find_state(const RankSetting& rank, const Prepared& p, std::int64_t saved_step) {
  OffloadSpec spec = p.spec.offload;
  spec.directory = directories_.front();
  std::optional<CommitRecord> found = find_committed_state(spec, run_.identity, rank.comm);
  const TrainArguments& arguments = rank.arguments;
  if (!found || found->step == 0 || found->step <= saved_step) return;
  if (arguments.resume_from) {
    barrier(rank.comm, "state on disk");
    if (leads_)
      spdlog::warn("the state of step {} is now in {}", found->step,
                   move_aside(directories_.front()).string());
    barrier(rank.comm, "state on disk");
    return;
  }
  if (arguments.resume == "never") {
    throw_user("--resume never: {} holds the state of step {}; --fresh moves that run aside",
               directories_.front().string(), found->step);
  }
  if (!p.spec.offload.state) {
    throw_user(
        "offload.state = \"memory\": the run was interrupted at step {} with its state on disk, "
        "newer than its last checkpoint; go on with offload.state = \"ssd\", or from the "
        "checkpoint by --resume-from",
        found->step);
  }
  run_.recovered = std::move(found);
}

OffloadPlace::OffloadPlace(const RankSetting& rank, Prepared& p,
                           const std::optional<CheckpointReader>& checkpoint)
    : run_{.identity = fs::absolute(p.run).string(), .recovered = {}},
      leads_(rank.comm.rank() == 0) {
  std::vector<fs::path> directories = directories_of(p);
  std::error_code error;
  const bool there = fs::exists(directories.front(), error);
  const std::int64_t any = from_leader(rank.comm, "state on disk", there ? 1 : 0);
  has_state_ = p.spec.offload.state;
  const bool needed = has_state_ || p.plan.activations.on_disk();
  if (any == 0 && !needed) return;
  directories_ = std::move(directories);
  find_state(rank, p, checkpoint ? checkpoint->step() : -1);
  keeps_ = is_recovered();
  if (!needed) {
    if (leads_) remove_all();
    directories_.clear();
    return;
  }
  for (const fs::path& directory : directories_) {
    make_directory(directory, p);
    if (!is_recovered() && leads_) remove_offloaded_state(directory);
  }
  p.spec.offload.directory = directories_.front();
  p.spec.offload.more_directories.assign(directories_.begin() + 1, directories_.end());
  barrier(rank.comm, "state on disk");
  try {
    if (directories_.size() > 1 && has_state_ && !is_recovered()) measure_disks(rank.comm, p);
    require_places(p, rank.ranks_on_node);
  } catch (...) {
    if (!keeps_) remove_all();  // every rank: the others may not come to it
    throw;
  }
  barrier(rank.comm, "state on disk");
}

void OffloadPlace::remove(Communicator& comm) {
  if (directories_.empty()) return;
  barrier(comm, "state on disk");  // nobody uses it any more
  if (leads_) remove_all();
}

void OffloadPlace::remove_all() noexcept {
  for (const fs::path& directory : directories_) {
    remove_offloaded_state(directory);
    std::error_code not_empty;
    fs::remove(directory, not_empty);
  }
}

OffloadPlace::~OffloadPlace() {
  if (!keeps_ && leads_) remove_all();
}

}  // namespace thimble
