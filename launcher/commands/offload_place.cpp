#include "launcher/commands/offload_place.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include "core/base/numeric.h"
#include "core/io/file_system.h"
#include "core/io/staged.h"
#include "data/content_hash.h"
#include "launcher/commands/choose_checkpoint.h"
#include "launcher/commands/run_content.h"
#include "parallel/collectives.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLockName = "lock";
// In the run's directory: where its state is, if not there too.
constexpr const char* kNoteName = "offload_at.txt";
constexpr std::int64_t kLongestPath = 4096;

std::string place_text(const std::string& path, const fs::path& directory) {
  return path.empty() ? "the run's directory " + directory.string()
                      : fmt::format("offload.path = \"{}\"", path);
}

bool exists_at(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// Where an earlier start of the run was told to keep its state; empty: in its own directory.
fs::path noted_place(const fs::path& run) {
  const fs::path note = run / kNoteName;
  return exists_at(note) ? fs::path(read_text_file(note, kLongestPath)) : fs::path();
}

// Inside the run's directory, or in the user's: under a name that no other run has, or where the
// run left its state before it was moved.
fs::path directory_of(const Prepared& p) {
  if (p.job.offload.path.empty()) return p.run / "offload";
  const fs::path path = p.job.offload.path, noted = noted_place(p.run);
  if (noted.parent_path() == path) return noted;
  ContentHash hash;
  hash.add(fs::absolute(p.run).lexically_normal().string());
  return path / fmt::format("thimble-{}-{:016x}", p.job.name, hash.value64());
}

// The nearest directory above that is there.
fs::path existing_part(fs::path path) {
  while (!exists_at(path) && path.has_relative_path()) path = path.parent_path();
  return path;
}

// The newest whole state of the first rank, whoever's it is.
std::optional<CommitRecord> state_in(const fs::path& directory) {
  std::vector<std::string> told_elsewhere;
  const std::vector<CommitRecord> found = read_commits(directory, 0, told_elsewhere);
  if (found.empty() || found.front().torn || found.front().step == 0) return std::nullopt;
  return found.front();
}

void tell_moved(std::int64_t step, const fs::path& directory) {
  spdlog::warn("the state of step {} is now in {}", step, move_aside(directory).string());
}

void remove_place(const fs::path& place) {
  remove_offloaded_state(place);
  std::error_code ignored;
  fs::remove(place / kLockName, ignored);
  fs::remove(place, ignored);
}

// A place that an earlier start had and this one has not must hold nothing that would be missed.
void give_up(const fs::path& place, const Prepared& p, const TrainArguments& arguments,
             std::int64_t saved_step) {
  const std::optional<CommitRecord> found = state_in(place);
  if (found && found->step > saved_step) {
    if (arguments.resume_from) return tell_moved(found->step, place);
    const bool own = place == p.run / "offload";
    throw_user(
        "offload.path = \"{}\": the run was interrupted at step {} with its state in {}, newer "
        "than its last checkpoint; go on with offload.path = \"{}\", or from the checkpoint by "
        "--resume-from",
        p.job.offload.path, found->step, place.string(),
        own ? std::string() : place.parent_path().string());
  }
  remove_place(place);
}

bool on_one_disk(const fs::path& a, const fs::path& b) {
  struct stat of_a {
  }, of_b{};
  return ::stat(a.c_str(), &of_a) == 0 && ::stat(b.c_str(), &of_b) == 0 &&
         of_a.st_dev == of_b.st_dev;
}

}  // namespace

void remove_finished_state(const Prepared& p) {
  const fs::path noted = noted_place(p.run);
  if (!noted.empty()) remove_place(noted);
  remove_place(p.run / "offload");
  std::error_code ignored;
  fs::remove(p.run / kNoteName, ignored);
}

void OffloadPlace::require_place(const Prepared& p) const {
  const std::string place = place_text(p.job.offload.path, directory_);
  const FileSystem system = file_system_of(directory_);
  if ((system.in_memory || system.on_network) && !p.job.offload.any_file_system) {
    throw_user(
        "{}: it is on {}, which is {}; state belongs on a local disk: set offload.path to one, or "
        "offload.any_file_system = true",
        place, system.name, system.in_memory ? "memory" : "a network");
  }
  // Checkpoints share the files of the state, so that one more is written meanwhile.
  const std::int64_t slot = p.plan.checkpoint_bytes, slots = p.spec.offload.slots,
                     saved = on_one_disk(directory_, p.run) ? 1 : 0;
  const std::int64_t wanted = is_recovered() ? saved * slot : (slots + saved) * slot;
  if (system.free_bytes < wanted) {
    throw_user(
        "{}: {} are free, and the state takes {} ({} of {} each{}){}; offload.path can be on "
        "another disk",
        place, format_bytes(system.free_bytes), format_bytes(wanted), slots, format_bytes(slot),
        saved == 1 ? ", and one for a checkpoint" : "",
        slots == 2 ? "; offload.slots = 1 takes one less" : "");
  }
  const std::int64_t kept = p.job.checkpoint.save_total_limit;
  if (leads_ && saved == 1 && kept > 1 && system.free_bytes < wanted + (kept - 1) * slot) {
    spdlog::warn(
        "{}: {} are free, and with {} checkpoints the state takes {}: fewer are kept with "
        "checkpoint.save_total_limit",
        place, format_bytes(system.free_bytes), kept, format_bytes(wanted + (kept - 1) * slot));
  }
}

// Of an own directory the run's lock says it all. Another one can be reached by two runs that do
// not see each other: two containers with one disk.
void OffloadPlace::hold(const Prepared& p) {
  if (!leads_ || p.job.offload.path.empty()) return;
  try {
    lock_.emplace(directory_ / kLockName);
  } catch (const UserError& e) {
    throw_user("{}: {}", place_text(p.job.offload.path, directory_), e.what());
  }
}

void OffloadPlace::check_owner(const Prepared& p, bool fresh) const {
  const std::optional<CommitRecord> found = state_in(directory_);
  if (!found) return;
  const std::string place = place_text(p.job.offload.path, directory_);
  if (found->identity != run_.identity) {
    throw_user("{}: {} holds the state of another run, {}; set offload.path to another directory",
               place, directory_.string(), found->identity);
  }
  // A run whose directory was removed has left its state here.
  if (!earlier_job(*p.held) && !fresh) {
    throw_user(
        "{}: {} holds the state of step {} of an earlier run, which is gone from {}; remove it, or "
        "start anew with --fresh",
        place, directory_.string(), found->step, p.run.string());
  }
}

void OffloadPlace::move_state_aside(Communicator& comm, std::int64_t step) {
  barrier(comm, "state on disk");
  if (leads_) {
    std::error_code ignored;
    if (lock_) fs::remove(directory_ / kLockName, ignored);
    lock_.reset();
    tell_moved(step, directory_);
  }
  barrier(comm, "state on disk");
}

// Looks for a state that is newer than the checkpoint.
void OffloadPlace::find_state(const RankSetting& rank, const Prepared& p, std::int64_t saved_step) {
  OffloadSpec spec = p.spec.offload;
  spec.directory = directory_;
  std::optional<CommitRecord> found = find_committed_state(spec, run_.identity, rank.comm);
  const TrainArguments& arguments = rank.arguments;
  if (!found || found->step == 0 || found->step <= saved_step) return;
  // A run that starts anew has left its directory, but not its state elsewhere.
  const bool anew = arguments.fresh && saved_step < 0;
  if (arguments.resume_from || anew) return move_state_aside(rank.comm, found->step);
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
    : leads_(rank.comm.rank() == 0) {
  const std::int64_t saved_step = checkpoint ? checkpoint->step() : -1;
  const fs::path directory = directory_of(p);
  if (leads_) {
    for (const fs::path& place : {noted_place(p.run), p.run / "offload"}) {
      if (place != directory && exists_at(place)) give_up(place, p, rank.arguments, saved_step);
    }
  }
  const std::int64_t any = from_leader(rank.comm, "state on disk", exists_at(directory) ? 1 : 0);
  if (any == 0 && !p.spec.offload.state) return;
  directory_ = directory;
  above_ = existing_part(directory_.parent_path());
  note_ = p.run / kNoteName;
  run_.identity = p.job.offload.path.empty() ? "of this directory" : directory_.filename().string();
  try {
    make_directory(p);
    hold(p);
    if (leads_) check_owner(p, rank.arguments.fresh);
    settle(rank, p, saved_step);
  } catch (...) {
    leave();  // every rank: the others may not come to it
    throw;
  }
}

void OffloadPlace::make_directory(const Prepared& p) const {
  std::error_code error;
  fs::create_directories(directory_, error);
  if (error)
    throw_user("{}: cannot make {}: {}", place_text(p.job.offload.path, directory_),
               directory_.string(), error.message());
}

void OffloadPlace::settle(const RankSetting& rank, Prepared& p, std::int64_t saved_step) {
  find_state(rank, p, saved_step);
  keeps_ = is_recovered();
  if (!p.spec.offload.state) {
    if (leads_) remove_all();
    directory_.clear();
    return;
  }
  make_directory(p);
  if (!lock_) hold(p);
  if (!is_recovered() && leads_) remove_offloaded_state(directory_);
  if (lock_) write_file_atomic(note_, directory_.string());
  p.spec.offload.directory = directory_;
  barrier(rank.comm, "state on disk");
  require_place(p);
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
  leave();
}

// What holds nothing goes, up to what was there before.
void OffloadPlace::leave() noexcept {
  std::error_code ignored;
  if (lock_) fs::remove(directory_ / kLockName, ignored);
  lock_.reset();
  fs::remove(directory_, ignored);
  if (exists_at(directory_)) return;
  fs::remove(note_, ignored);
  for (fs::path path = directory_.parent_path(); path != above_; path = path.parent_path())
    fs::remove(path, ignored);
}

OffloadPlace::~OffloadPlace() {
  if (!keeps_ && leads_) remove_all();
}

}  // namespace thimble
