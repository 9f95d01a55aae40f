#include "launcher/commands/offload_place.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <random>
#include <sstream>

#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/staged.h"
#include "launcher/commands/choose_checkpoint.h"
#include "launcher/plan/job_plan.h"
#include "parallel/collectives.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLockName = "lock";
// In the run's directory: where its state is, if not there too, a line for each disk.
constexpr const char* kNoteName = "offload_at.txt";
// Beside the state, if that is not in the run's directory: whose it is.
constexpr const char* kOwnerName = "run.txt";
constexpr std::int64_t kLongestNote = 1 << 16;

bool exists_at(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// Where an earlier start of the run was told to keep its state; none: in its own directory.
std::vector<fs::path> noted_places(const fs::path& run) {
  std::vector<fs::path> places;
  if (!exists_at(run / kNoteName)) return places;
  std::istringstream lines(read_text_file(run / kNoteName, kLongestNote));
  for (std::string line; std::getline(lines, line);) places.emplace_back(line);
  return places;
}

// Inside the run's directory, or in the user's: where the run has noted it, or under a name that no
// other run has ever had, wherever the two are moved to. `id` is new on every start.
std::vector<fs::path> directories_of(const Prepared& p, std::uint64_t id) {
  const std::vector<fs::path> paths = offload_paths(p.job.offload);
  if (paths.empty()) return {p.run / "offload"};
  std::vector<fs::path> noted = noted_places(p.run);
  if (std::equal(noted.begin(), noted.end(), paths.begin(), paths.end(),
                 [](const fs::path& a, const fs::path& b) { return a.parent_path() == b; }))
    return noted;
  std::vector<fs::path> directories;
  for (const fs::path& path : paths)
    directories.push_back(path / fmt::format("thimble-{}-{:016x}", p.job.name, id));
  return directories;
}

// Random and not of the job's seed: two runs of one job are two.
std::uint64_t new_id() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

fs::path full_path(const fs::path& path) {
  return fs::absolute(path).lexically_normal();
}

// The run that a place says it belongs to; empty: it does not say.
fs::path owner_of(const fs::path& place) {
  if (!exists_at(place / kOwnerName)) return {};
  return read_text_file(place / kOwnerName, kLongestNote);
}

// The setting that names these directories.
std::string setting_of(const std::vector<fs::path>& places, const fs::path& run) {
  if (places.size() > 1) {
    std::vector<std::string> quoted;
    for (const fs::path& place : places)
      quoted.push_back("\"" + place.parent_path().string() + "\"");
    return "offload.paths = [" + join(quoted) + "]";
  }
  const bool own = places.front() == run / "offload";
  return fmt::format("offload.path = \"{}\"",
                     own ? std::string() : places.front().parent_path().string());
}

// The newest whole state of the first rank, whoever's it is.
std::optional<CommitRecord> state_in(const fs::path& directory) {
  std::vector<std::string> told_elsewhere;
  const std::vector<CommitRecord> found = read_commits(directory, 0, told_elsewhere);
  if (found.empty() || found.front().torn || found.front().step == 0) return std::nullopt;
  return found.front();
}

// step: none if it cannot be read.
void tell_moved(std::optional<std::int64_t> step, const std::vector<fs::path>& places) {
  const std::string what = step ? fmt::format("the state of step {}", *step) : "the damaged state";
  for (const fs::path& place : places) {
    if (exists_at(place)) spdlog::warn("{} is now in {}", what, move_aside(place).string());
  }
}

// Than the name of its run.
bool holds_nothing_else(const fs::path& place) {
  std::error_code ignored;
  const fs::directory_iterator all(place, ignored);
  return std::all_of(begin(all), end(all),
                     [](const auto& entry) { return entry.path().filename() == kOwnerName; });
}

void remove_places(const std::vector<fs::path>& places) {
  std::error_code ignored;
  for (const fs::path& place : places) {
    remove_offloaded_state(place);
    fs::remove(place / kLockName, ignored);
    fs::remove(place / kOwnerName, ignored);
    fs::remove(place, ignored);
  }
}

// Another run of this name and directory was deleted or moved away and has left its state: nothing
// of this run's, but room that somebody may want back.
void tell_left_behind(const Prepared& p, const std::vector<fs::path>& own) {
  const std::string stem = fmt::format("thimble-{}-", p.job.name);
  for (const fs::path& place : own) {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(place.parent_path(), ignored)) {
      const fs::path& other = entry.path();
      if (other == place || !other.filename().string().starts_with(stem)) continue;
      if (owner_of(other) == full_path(p.run))
        spdlog::warn(
            "{} holds the state of a run that was in {} before and was moved or deleted; this run "
            "does not use it",
            other.string(), p.run.string());
    }
  }
}

// A run, and where it keeps its state now.
struct RunAndPlaces {
  const Prepared& p;
  const std::vector<fs::path>& places;
};

// Places that an earlier start had and this one has not must hold nothing that would be missed.
void give_up(const std::vector<fs::path>& places, const RunAndPlaces& now,
             const TrainArguments& arguments, std::int64_t saved_step) {
  const std::optional<CommitRecord> found = state_in(places.front());
  if (found && found->step > saved_step) {
    if (arguments.resume_from) return tell_moved(found->step, places);
    throw_user(
        "{}: the run was interrupted at step {} with its state in {}, newer than its last "
        "checkpoint; go on with {}, or from the checkpoint by --resume-from",
        setting_of(now.places, now.p.run), found->step, places.front().string(),
        setting_of(places, now.p.run));
  }
  remove_places(places);
}

// Whether anything is on disk.
bool is_needed(const Prepared& p) {
  return p.spec.offload.state || p.plan.activations.on_disk();
}

}  // namespace

std::string key_and_path(const Prepared& p, const fs::path& directory) {
  const job::OffloadConfig& offload = p.job.offload;
  if (offload_paths(offload).empty()) return "the run's directory " + directory.string();
  return fmt::format("offload.{} = \"{}\"", offload.paths.empty() ? "path" : "paths",
                     directory.parent_path().string());
}

void remove_finished_state(const Prepared& p) {
  remove_places(noted_places(p.run));
  remove_places({p.run / "offload"});
  std::error_code ignored;
  fs::remove(p.run / kNoteName, ignored);
}

// Of an own directory the run's lock says it all. Another one can be reached by two runs that do
// not see each other: two containers with one disk.
void OffloadPlace::hold(const Prepared& p) {
  if (!leads_ || offload_paths(p.job.offload).empty()) return;
  for (const fs::path& directory : directories_) {
    try {
      locks_.emplace_back(directory / kLockName);
    } catch (const UserError& e) {
      throw_user("{}: {}", key_and_path(p, directory), e.what());
    }
  }
}

void OffloadPlace::check_owner(const Prepared& p) const {
  const fs::path& directory = directories_.front();
  const std::optional<CommitRecord> found = state_in(directory);
  if (!found) return;
  const std::string place = key_and_path(p, directory);
  if (found->identity != run_.identity) {
    throw_user("{}: {} holds the state of another run, {}; set offload.path to another directory",
               place, directory.string(), found->identity);
  }
  const fs::path owner = owner_of(directory);
  if (owner.empty() || owner == full_path(p.run)) return;
  if (noted_places(owner) == directories_) {
    throw_user(
        "{}: {} holds the state of {}, of which {} is a copy; go on in one of them and delete {} "
        "in the other, which then goes on from its last checkpoint",
        place, directory.string(), owner.string(), p.run.string(), kNoteName);
  }
}

void OffloadPlace::move_state_aside(Communicator& comm, std::optional<std::int64_t> step) {
  barrier(comm, "state on disk");
  if (leads_) {
    release();
    tell_moved(step, directories_);
  }
  barrier(comm, "state on disk");
}

// Looks for a state that is newer than the checkpoint.
void OffloadPlace::find_state(const RankSetting& rank, const Prepared& p, std::int64_t saved_step) {
  OffloadSpec spec = p.spec.offload;
  spec.directory = directories_.front();
  const CommittedState state = find_committed_state(spec, run_.identity, rank.comm);
  std::optional<CommitRecord> found = state.record;
  const TrainArguments& arguments = rank.arguments;
  if (!found && state.is_damaged) {
    if (arguments.resume_from) return move_state_aside(rank.comm, {});
    throw_user(
        "{}: no commit record of the state in {} can be read ({}); go on from a checkpoint with "
        "--resume-from, or start anew with --fresh; either keeps what is there",
        key_and_path(p, directories_.front()), directories_.front().string(),
        state.damage.empty() ? "on another rank" : state.damage);
  }
  if (!found || found->step == 0 || found->step <= saved_step) return;
  if (arguments.resume_from) return move_state_aside(rank.comm, found->step);
  if (arguments.resume == "never") {
    throw_user("--resume never: {} holds the state of step {}; --fresh moves that run aside",
               directories_.front().string(), found->step);
  }
  if (!p.spec.offload.state) {
    throw_user(
        "offload.state = \"{}\": the run was interrupted at step {} with its state on disk, "
        "newer than its last checkpoint; go on with offload.state = \"ssd\", or from the "
        "checkpoint by --resume-from",
        p.spec.offload.host_state ? "host" : "memory", found->step);
  }
  run_.recovered = std::move(found);
}

OffloadPlace::OffloadPlace(const RankSetting& rank, Prepared& p, std::int64_t saved_step)
    : leads_(rank.comm.rank() == 0) {
  const auto id = static_cast<std::int64_t>(new_id());
  const std::vector<fs::path> directories =
      directories_of(p, static_cast<std::uint64_t>(from_leader(rank.comm, "state on disk", id)));
  if (leads_) {
    for (const auto& places : {noted_places(p.run), std::vector{p.run / "offload"}}) {
      if (!places.empty() && places != directories && exists_at(places.front()))
        give_up(places, {p, directories}, rank.arguments, saved_step);
    }
  }
  const std::int64_t any =
      from_leader(rank.comm, "state on disk", exists_at(directories.front()) ? 1 : 0);
  has_state_ = p.spec.offload.state;
  if (any == 0 && !is_needed(p)) return;
  directories_ = directories;
  for (const fs::path& directory : directories_)
    above_.push_back(existing_part(directory.parent_path()));
  note_ = p.run / kNoteName;
  run_.identity = offload_paths(p.job.offload).empty() ? "of this directory"
                                                       : directories_.front().filename().string();
  try {
    make_directories(p);
    hold(p);
    if (leads_) check_owner(p);
    settle(rank, p, saved_step);
  } catch (...) {
    leave();  // every rank: the others may not come to it
    throw;
  }
}

void OffloadPlace::make_directories(const Prepared& p) const {
  for (const fs::path& directory : directories_) {
    std::error_code error;
    fs::create_directories(directory, error);
    if (error)
      throw_user("{}: cannot make {}: {}", key_and_path(p, directory), directory.string(),
                 error.message());
    sync_directory(directory.parent_path());
  }
}

void OffloadPlace::settle(const RankSetting& rank, Prepared& p, std::int64_t saved_step) {
  find_state(rank, p, saved_step);
  keeps_ = is_recovered();
  if (!is_needed(p)) {
    if (leads_) remove_all();
    directories_.clear();
    return;
  }
  make_directories(p);
  if (locks_.empty()) hold(p);
  std::string note;
  for (const fs::path& directory : directories_) {
    if (!is_recovered() && leads_) remove_offloaded_state(directory);
    note += directory.string() + "\n";
  }
  if (has_state_ && !locks_.empty()) {
    for (const fs::path& directory : directories_)
      write_file_atomic(directory / kOwnerName, full_path(p.run).string());
    write_file_atomic(note_, note);
    tell_left_behind(p, directories_);
  }
  p.spec.offload.directory = directories_.front();
  p.spec.offload.more_directories.assign(directories_.begin() + 1, directories_.end());
  barrier(rank.comm, "state on disk");
  if (directories_.size() > 1) measure_disks(rank.comm, p);
  require_places(p, rank.ranks_on_node);
  barrier(rank.comm, "state on disk");
}

void OffloadPlace::remove(Communicator& comm) {
  if (directories_.empty()) return;
  barrier(comm, "state on disk");  // nobody uses it any more
  if (leads_) remove_all();
}

void OffloadPlace::remove_all() noexcept {
  for (const fs::path& directory : directories_) remove_offloaded_state(directory);
  leave();
}

void OffloadPlace::release() noexcept {
  std::error_code ignored;
  for (std::size_t i = 0; i < locks_.size(); ++i) fs::remove(directories_[i] / kLockName, ignored);
  locks_.clear();
}

// What holds nothing goes, up to what was there before.
void OffloadPlace::leave() noexcept {
  release();
  std::error_code ignored;
  for (std::size_t i = 0; i < directories_.size(); ++i) {
    // A state that stays says whose it is.
    if (holds_nothing_else(directories_[i])) fs::remove(directories_[i] / kOwnerName, ignored);
    fs::remove(directories_[i], ignored);
    if (exists_at(directories_[i])) continue;
    if (i == 0) fs::remove(note_, ignored);
    for (fs::path path = directories_[i].parent_path(); path != above_[i];
         path = path.parent_path())
      fs::remove(path, ignored);
  }
}

OffloadPlace::~OffloadPlace() {
  if (!keeps_ && leads_) remove_all();
}

}  // namespace thimble
