#include "launcher/commands/offload_place.h"

#include <spdlog/spdlog.h>

#include "core/base/numeric.h"
#include "core/io/file_system.h"
#include "core/io/staged.h"
#include "data/content_hash.h"
#include "launcher/commands/choose_checkpoint.h"
#include "parallel/collectives.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// Inside the run's directory, or in the user's, under a name that no other run has.
fs::path directory_of(const Prepared& p) {
  if (p.job.offload.path.empty()) return p.run / "offload";
  ContentHash hash;
  hash.add(fs::absolute(p.run).string());
  return fs::path(p.job.offload.path) /
         fmt::format("thimble-{}-{:016x}", p.job.name, hash.value64());
}

std::string key_and_path(const Prepared& p, const fs::path& directory) {
  return p.job.offload.path.empty() ? "the run's directory " + directory.string()
                                    : fmt::format("offload.path = \"{}\"", p.job.offload.path);
}

void make_directory(const fs::path& directory, const Prepared& p) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error)
    throw_user("{}: cannot make {}: {}", key_and_path(p, directory), directory.string(),
               error.message());
}

}  // namespace

void OffloadPlace::require_place(const Prepared& p, int ranks) const {
  const FileSystem system = file_system_of(directory_);
  if ((system.in_memory || system.on_network) && !p.job.offload.any_file_system) {
    throw_user(
        "{}: it is on {}, which is {}; what is offloaded belongs on a local disk: set offload.path "
        "to one, or "
        "offload.any_file_system = true",
        key_and_path(p, directory_), system.name, system.in_memory ? "memory" : "a network");
  }
  const std::int64_t slot = p.plan.checkpoint_bytes, slots = p.spec.offload.slots;
  const std::int64_t wanted = !p.spec.offload.state ? 0
                              : is_recovered()      ? slot
                                                    : (slots + 1) * slot;
  if (system.free_bytes < wanted) {
    throw_user(
        "{}: {} are free, and the state takes {} ({} of {} each, and one for a checkpoint){}",
        key_and_path(p, directory_), format_bytes(system.free_bytes), format_bytes(wanted), slots,
        format_bytes(slot), slots == 2 ? "; offload.slots = 1 takes a third less" : "");
  }
  const std::int64_t activations = ranks * p.plan.activations.disk_bytes;
  if (system.free_bytes - wanted < activations) {
    throw_user(
        "{}: {} are free{}, and the activations of a micro-batch take {}; a smaller "
        "training.micro_batch_size takes less",
        key_and_path(p, directory_), format_bytes(system.free_bytes - wanted),
        wanted > 0 ? " beside the state" : "", format_bytes(activations));
  }
}

// Looks for a state that is newer than the checkpoint.
void OffloadPlace::find_state(const RankSetting& rank, const Prepared& p, std::int64_t saved_step) {
  OffloadSpec spec = p.spec.offload;
  spec.directory = directory_;
  std::optional<CommitRecord> found = find_committed_state(spec, run_.identity, rank.comm);
  const TrainArguments& arguments = rank.arguments;
  if (!found || found->step == 0 || found->step <= saved_step) return;
  if (arguments.resume_from) {
    barrier(rank.comm, "state on disk");
    if (leads_)
      spdlog::warn("the state of step {} is now in {}", found->step,
                   move_aside(directory_).string());
    barrier(rank.comm, "state on disk");
    return;
  }
  if (arguments.resume == "never") {
    throw_user("--resume never: {} holds the state of step {}; --fresh moves that run aside",
               directory_.string(), found->step);
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
  const fs::path directory = directory_of(p);
  std::error_code error;
  const bool there = fs::exists(directory, error);
  const std::int64_t any = from_leader(rank.comm, "state on disk", there ? 1 : 0);
  has_state_ = p.spec.offload.state;
  const bool needed = has_state_ || p.plan.activations.on_disk();
  if (any == 0 && !needed) return;
  directory_ = directory;
  find_state(rank, p, checkpoint ? checkpoint->step() : -1);
  keeps_ = is_recovered();
  if (!needed) {
    if (leads_) remove_all();
    directory_.clear();
    return;
  }
  make_directory(directory_, p);
  if (!is_recovered() && leads_) remove_offloaded_state(directory_);
  p.spec.offload.directory = directory_;
  barrier(rank.comm, "state on disk");
  try {
    require_place(p, rank.ranks_on_node);
  } catch (...) {
    if (!keeps_) remove_all();  // every rank: the others may not come to it
    throw;
  }
  barrier(rank.comm, "state on disk");
}

void OffloadPlace::remove(Communicator& comm) {
  if (directory_.empty()) return;
  barrier(comm, "state on disk");  // nobody uses it any more
  if (leads_) remove_all();
}

void OffloadPlace::remove_all() noexcept {
  if (directory_.empty()) return;
  remove_offloaded_state(directory_);
  std::error_code not_empty;
  fs::remove(directory_, not_empty);
}

OffloadPlace::~OffloadPlace() {
  if (!keeps_ && leads_) remove_all();
}

}  // namespace thimble
