#include "launcher/commands/offload_place.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <sstream>

#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/staged.h"
#include "data/content_hash.h"
#include "launcher/commands/choose_checkpoint.h"
#include "launcher/commands/run_content.h"
#include "launcher/plan/job_plan.h"
#include "parallel/collectives.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLockName = "lock";
// In the run's directory: where its state is, if not there too, a line for each disk.
constexpr const char* kNoteName = "offload_at.txt";
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

// Inside the run's directory, or in the user's: under a name that no other run has, or where the
// run left its state before it was moved.
std::vector<fs::path> directories_of(const Prepared& p) {
  const std::vector<fs::path> paths = offload_paths(p.job.offload);
  if (paths.empty()) return {p.run / "offload"};
  std::vector<fs::path> noted = noted_places(p.run);
  if (std::equal(noted.begin(), noted.end(), paths.begin(), paths.end(),
                 [](const fs::path& a, const fs::path& b) { return a.parent_path() == b; }))
    return noted;
  ContentHash hash;
  hash.add(fs::absolute(p.run).lexically_normal().string());
  std::vector<fs::path> directories;
  for (const fs::path& path : paths)
    directories.push_back(path / fmt::format("thimble-{}-{:016x}", p.job.name, hash.value64()));
  return directories;
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

void tell_moved(std::int64_t step, const std::vector<fs::path>& places) {
  for (const fs::path& place : places) {
    if (exists_at(place))
      spdlog::warn("the state of step {} is now in {}", step, move_aside(place).string());
  }
}

void remove_places(const std::vector<fs::path>& places) {
  std::error_code ignored;
  for (const fs::path& place : places) {
    remove_offloaded_state(place);
    fs::remove(place / kLockName, ignored);
    fs::remove(place, ignored);
  }
}

// Places that an earlier start had and this one has not must hold nothing that would be missed.
void give_up(const std::vector<fs::path>& places, const Prepared& p,
             const TrainArguments& arguments, std::int64_t saved_step) {
  const std::optional<CommitRecord> found = state_in(places.front());
  if (found && found->step > saved_step) {
    if (arguments.resume_from) return tell_moved(found->step, places);
    throw_user(
        "{}: the run was interrupted at step {} with its state in {}, newer than its last "
        "checkpoint; go on with {}, or from the checkpoint by --resume-from",
        setting_of(directories_of(p), p.run), found->step, places.front().string(),
        setting_of(places, p.run));
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

void OffloadPlace::check_owner(const Prepared& p, bool fresh) const {
  const fs::path& directory = directories_.front();
  const std::optional<CommitRecord> found = state_in(directory);
  if (!found) return;
  const std::string place = key_and_path(p, directory);
  if (found->identity != run_.identity) {
    throw_user("{}: {} holds the state of another run, {}; set offload.path to another directory",
               place, directory.string(), found->identity);
  }
  // A run whose directory was removed has left its state here.
  if (!earlier_job(*p.held) && !fresh) {
    throw_user(
        "{}: {} holds the state of step {} of an earlier run, which is gone from {}; remove it, or "
        "start anew with --fresh",
        place, directory.string(), found->step, p.run.string());
  }
}

void OffloadPlace::move_state_aside(Communicator& comm, std::int64_t step) {
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
  std::optional<CommitRecord> found = find_committed_state(spec, run_.identity, rank.comm);
  const TrainArguments& arguments = rank.arguments;
  if (!found || found->step == 0 || found->step <= saved_step) return;
  // A run that starts anew has left its directory, but not its state elsewhere.
  const bool anew = arguments.fresh && saved_step < 0;
  if (arguments.resume_from || anew) return move_state_aside(rank.comm, found->step);
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

OffloadPlace::OffloadPlace(const RankSetting& rank, Prepared& p, std::int64_t saved_step)
    : leads_(rank.comm.rank() == 0) {
  const std::vector<fs::path> directories = directories_of(p);
  if (leads_) {
    for (const auto& places : {noted_places(p.run), std::vector{p.run / "offload"}}) {
      if (!places.empty() && places != directories && exists_at(places.front()))
        give_up(places, p, rank.arguments, saved_step);
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
    if (leads_) check_owner(p, rank.arguments.fresh);
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
  if (has_state_ && !locks_.empty()) write_file_atomic(note_, note);
  p.spec.offload.directory = directories_.front();
  p.spec.offload.more_directories.assign(directories_.begin() + 1, directories_.end());
  barrier(rank.comm, "state on disk");
  if (directories_.size() > 1 && has_state_ && !is_recovered()) measure_disks(rank.comm, p);
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
