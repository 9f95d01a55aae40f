#include "launcher/commands/checkpoint_care.h"

#include <sys/stat.h>

#include <algorithm>

#include "checkpoint/save_snapshots.h"
#include "core/base/error.h"
#include "core/io/staged.h"
#include "launcher/job/load_job.h"
#include "launcher/run/run_dir.h"
#include "train/train_state.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMaxJobBytes = 1 << 20;

// Neither a training run nor its keeper writes there meanwhile.
struct HeldRun {
  explicit HeldRun(const fs::path& directory)
      : run(lock_run(directory)), saving(saving_lock_path(directory / "checkpoints")) {}

  LockFile run, saving;
};

void measure(CheckpointEntry& entry) {
  // What goes meanwhile ends the walk, by an error and not by an exception.
  std::error_code gone;
  for (fs::directory_iterator file(entry.path, gone), end; !gone && file != end;
       file.increment(gone)) {
    struct stat status {};
    if (::lstat(file->path().c_str(), &status) != 0 || !S_ISREG(status.st_mode)) continue;
    entry.bytes += status.st_size;
    entry.saved_s = std::max<std::int64_t>(entry.saved_s, status.st_mtime);
  }
  struct stat manifest {};
  if (::stat((entry.path / kManifestName).c_str(), &manifest) == 0) {
    entry.saved_s = manifest.st_mtime;
  }
}

CheckpointEntry entry_of(const CheckpointName& name, CheckpointCondition state) {
  CheckpointEntry entry{.step = name.step, .path = name.path, .state = state};
  measure(entry);
  return entry;
}

// What the run's job keeps; nothing special if its record cannot be read.
Retention retention_of(const fs::path& run) {
  Retention retention{.keep_last = 0};
  try {
    const fs::path file = run / "job.resolved.toml";
    const job::JobConfig job =
        job::parse_job_text(read_text_file(file, kMaxJobBytes), file.string());
    retention.keep_last = job.checkpoint.save_total_limit;
    retention.keep_every = job.checkpoint.keep_every;
  } catch (const UserError&) {
  } catch (const SystemError&) {
  }
  return retention;
}

// The step of the best evaluation, as the newest complete checkpoint says it.
void protect_best(const std::vector<CheckpointEntry>& entries, FileEngine& files,
                  Retention& retention) {
  for (auto it = entries.rbegin(); it != entries.rend(); ++it) {
    if (it->state != CheckpointCondition::kComplete) continue;
    try {
      const auto reader = CheckpointReader::open(it->path, {files, {}}, CheckpointCheck::kManifest);
      const std::int64_t best = checkpoint_state(reader).best_step;
      if (best >= 0) retention.protect.insert(best);
      return;
    } catch (const UserError&) {
      // Its own words about itself are of no use; an older one may know.
    } catch (const SystemError&) {
    }
  }
}

void explain_kept(const Retention& retention, std::vector<CheckpointEntry>& entries) {
  std::int64_t num_newer = 0;
  for (auto it = entries.rbegin(); it != entries.rend(); ++it) {
    if (it->state != CheckpointCondition::kComplete) continue;
    auto& why = it->kept_for;
    if (num_newer == 0) why.emplace_back("newest");
    if (retention.protect.contains(it->step)) why.emplace_back("best");
    if (num_newer > 0 && num_newer < retention.keep_last) {
      why.push_back(fmt::format("one of the last {}", retention.keep_last));
    }
    if (retention.keep_every > 0 && it->step % retention.keep_every == 0) {
      why.push_back(fmt::format("every {} steps", retention.keep_every));
    }
    ++num_newer;
  }
}

// Complete and damaged ones, by what their manifests say.
std::vector<CheckpointEntry> look_at(const fs::path& checkpoints, FileEngine& files) {
  std::vector<CheckpointEntry> entries;
  for (const CheckpointName& name : list_checkpoints(checkpoints)) {
    CheckpointEntry entry = entry_of(name, CheckpointCondition::kComplete);
    try {
      CheckpointReader::open(name.path, {files, {}}, CheckpointCheck::kManifest);
    } catch (const UserError& error) {
      entry.problem = error.what();
    } catch (const SystemError& error) {
      entry.problem = error.what();
    }
    if (!entry.problem.empty()) {
      if (!fs::exists(name.path)) continue;
      entry.state = CheckpointCondition::kDamaged;
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

}  // namespace

std::string_view condition_name(CheckpointCondition state) {
  switch (state) {
    case CheckpointCondition::kComplete:
      return "complete";
    case CheckpointCondition::kDamaged:
      return "damaged";
    case CheckpointCondition::kUnfinished:
      return "unfinished";
    case CheckpointCondition::kSetAside:
      return "set aside";
  }
  return "";
}

fs::path checkpoints_of(const fs::path& run) {
  if (!fs::is_directory(run)) throw_user("{}: no such directory", run.string());
  const fs::path checkpoints = run / "checkpoints";
  if (!fs::is_directory(checkpoints)) {
    throw_user("{}: not the directory of a run, such as runs/demo: it has no checkpoints/",
               run.string());
  }
  return checkpoints;
}

std::vector<CheckpointEntry> list_entries(const fs::path& run) {
  const fs::path checkpoints = checkpoints_of(run);
  const auto files = make_file_engine();
  std::vector<CheckpointEntry> entries = look_at(checkpoints, *files);
  Retention retention = retention_of(run);
  protect_best(entries, *files, retention);
  explain_kept(retention, entries);
  for (const CheckpointName& name : list_unfinished(checkpoints)) {
    entries.push_back(entry_of(name, CheckpointCondition::kUnfinished));
  }
  for (const CheckpointName& name : list_set_aside(checkpoints)) {
    entries.push_back(entry_of(name, CheckpointCondition::kSetAside));
  }
  std::stable_sort(
      entries.begin(), entries.end(),
      [](const CheckpointEntry& a, const CheckpointEntry& b) { return a.step < b.step; });
  return entries;
}

std::vector<VerifiedCheckpoint> verify_checkpoints(const fs::path& run,
                                                   std::optional<std::int64_t> step) {
  const fs::path checkpoints = checkpoints_of(run);
  const auto files = make_file_engine();
  std::vector<VerifiedCheckpoint> verified;
  for (const CheckpointName& name : list_checkpoints(checkpoints)) {
    if (step && name.step != *step) continue;
    CheckpointDamage damage = examine_checkpoint(name.path, *files);
    if (damage.found() && !fs::exists(name.path)) continue;
    verified.push_back({name, std::move(damage)});
  }
  if (step && verified.empty()) {
    throw_user("{}: there is no checkpoint of step {}", checkpoints.string(), *step);
  }
  return verified;
}

RepairReport repair_checkpoints(const fs::path& run) {
  const fs::path checkpoints = checkpoints_of(run);
  const HeldRun held(run);
  RepairReport report{.found = verify_checkpoints(run, std::nullopt)};
  for (const VerifiedCheckpoint& checkpoint : report.found) {
    if (!checkpoint.damage.found()) report.newest_sound = checkpoint.name.step;
  }
  report.removed = remove_stale(checkpoints);
  if (!report.newest_sound) return report;
  for (const VerifiedCheckpoint& checkpoint : report.found) {
    if (!checkpoint.damage.found()) continue;
    report.set_aside.emplace_back(checkpoint.name.path, move_aside(checkpoint.name.path));
  }
  return report;
}

PruneReport prune_run(const fs::path& run, const PruneRequest& request) {
  TH_CHECK(request.keep >= 1);
  const fs::path checkpoints = checkpoints_of(run);
  const HeldRun held(run);
  const auto files = make_file_engine();
  std::vector<CheckpointEntry> entries = look_at(checkpoints, *files);
  const auto is_complete = [](const CheckpointEntry& e) {
    return e.state == CheckpointCondition::kComplete;
  };
  // Until one is found of which every byte is as it was saved.
  for (auto it = entries.rbegin(); it != entries.rend(); ++it) {
    if (!is_complete(*it)) continue;
    const CheckpointDamage damage = examine_checkpoint(it->path, *files);
    if (!damage.found()) break;
    it->state = CheckpointCondition::kDamaged;
  }
  std::int64_t num_newer = std::count_if(entries.begin(), entries.end(), is_complete);
  if (num_newer == 0) {
    throw_user("{}: no checkpoint is sound, so none is removed", checkpoints.string());
  }
  Retention retention = retention_of(run);
  retention.keep_last = request.keep;
  if (request.keep_every) retention.keep_every = *request.keep_every;
  protect_best(entries, *files, retention);
  explain_kept(retention, entries);
  PruneReport report;
  for (CheckpointEntry& entry : entries) {
    if (!is_complete(entry) || retention.keeps(entry.step, --num_newer)) {
      report.kept.push_back(std::move(entry));
      continue;
    }
    if (!request.dry_run) remove_checkpoint(entry.path);
    report.removed_bytes += entry.bytes;
    report.removed.push_back(std::move(entry));
  }
  return report;
}

}  // namespace thimble
