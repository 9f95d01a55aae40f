#include "launcher/commands/offload_place.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>

#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/file_system.h"
#include "core/io/staged.h"
#include "data/content_hash.h"
#include "launcher/commands/choose_checkpoint.h"
#include "launcher/commands/run_content.h"
#include "offload/disk_speed.h"
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

std::string key_and_path(const Prepared& p, const fs::path& directory) {
  const job::OffloadConfig& offload = p.job.offload;
  if (offload_paths(offload).empty()) return "the run's directory " + directory.string();
  return fmt::format("offload.{} = \"{}\"", offload.paths.empty() ? "path" : "paths",
                     directory.parent_path().string());
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
        "{}: it is on {}, which is {}; state belongs on a local disk: set offload.path to one, or "
        "offload.any_file_system = true",
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

}  // namespace

std::vector<fs::path> offload_paths(const job::OffloadConfig& offload) {
  if (!offload.path.empty()) return {offload.path};
  return {offload.paths.begin(), offload.paths.end()};
}

double short_disk_rate(const fs::path& directory) {
  return measure_disk_speed({.directory = directory,
                             .size_bytes = 256 * kMiB,
                             .seconds = 1,
                             .queue_depths = {16},
                             .request_bytes = {4 * kMiB}})
      .best.mixed;
}

void remove_finished_state(const Prepared& p) {
  remove_places(noted_places(p.run));
  remove_places({p.run / "offload"});
  std::error_code ignored;
  fs::remove(p.run / kNoteName, ignored);
}

void OffloadPlace::require_places(const Prepared& p) const {
  const std::int64_t slot = p.plan.checkpoint_bytes, slots = p.spec.offload.slots;
  if (directories_.size() > 1) {
    const std::vector<double>& rates = p.spec.offload.disk_rates;
    const double all = std::accumulate(rates.begin(), rates.end(), 0.0);
    for (std::size_t i = 0; i < directories_.size(); ++i) {
      const double share = rates.empty() ? 0 : rates[i] / all;
      require_room(p, directories_[i],
                   static_cast<std::int64_t>(share * static_cast<double>(slots * slot)),
                   ", over all paths");
    }
    return;
  }
  // Checkpoints share the files of the state, so that one more is written meanwhile.
  const fs::path& directory = directories_.front();
  const std::int64_t saved = on_one_disk(directory, p.run) ? 1 : 0;
  const std::int64_t wanted = is_recovered() ? saved * slot : (slots + saved) * slot;
  require_room(p, directory, wanted, saved == 1 ? ", and one for a checkpoint" : "");
  const std::int64_t kept = p.job.checkpoint.save_total_limit, later = wanted + (kept - 1) * slot,
                     free_bytes = file_system_of(directory).free_bytes;
  if (leads_ && saved == 1 && free_bytes < later) {
    spdlog::warn(
        "{}: {} are free, and with {} checkpoints the state takes {}: fewer are kept with "
        "checkpoint.save_total_limit",
        key_and_path(p, directory), format_bytes(free_bytes), kept, format_bytes(later));
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

OffloadPlace::OffloadPlace(const RankSetting& rank, Prepared& p,
                           const std::optional<CheckpointReader>& checkpoint)
    : leads_(rank.comm.rank() == 0) {
  const std::int64_t saved_step = checkpoint ? checkpoint->step() : -1;
  const std::vector<fs::path> directories = directories_of(p);
  if (leads_) {
    for (const auto& places : {noted_places(p.run), std::vector{p.run / "offload"}}) {
      if (!places.empty() && places != directories && exists_at(places.front()))
        give_up(places, p, rank.arguments, saved_step);
    }
  }
  const std::int64_t any =
      from_leader(rank.comm, "state on disk", exists_at(directories.front()) ? 1 : 0);
  if (any == 0 && !p.spec.offload.state) return;
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
  }
}

void OffloadPlace::settle(const RankSetting& rank, Prepared& p, std::int64_t saved_step) {
  find_state(rank, p, saved_step);
  keeps_ = is_recovered();
  if (!p.spec.offload.state) {
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
  if (!locks_.empty()) write_file_atomic(note_, note);
  p.spec.offload.directory = directories_.front();
  p.spec.offload.more_directories.assign(directories_.begin() + 1, directories_.end());
  barrier(rank.comm, "state on disk");
  if (directories_.size() > 1 && !is_recovered()) measure_disks(rank.comm, p);
  require_places(p);
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
