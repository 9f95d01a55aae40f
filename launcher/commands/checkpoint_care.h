// What can be done with a run's checkpoints from outside: look, verify, repair, prune. Results are
// values; the command prints them. Whoever changes something holds the run's lock.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint_damage.h"
#include "checkpoint/checkpoint_directory.h"

namespace thimble {

enum class CheckpointCondition : std::uint8_t {
  kComplete,    // its manifest and the structure of its file are whole; not every byte was read
  kDamaged,     // it is not
  kUnfinished,  // a save that was cut short, or is under way
  kSetAside,    // moved out of the way by Thimble
};

/// "complete", "damaged", "unfinished", "set aside"
std::string_view condition_name(CheckpointCondition state);

struct CheckpointEntry {
  std::int64_t step = 0;
  std::filesystem::path path;
  CheckpointCondition state = CheckpointCondition::kComplete;
  /// Of all files in it.
  std::int64_t bytes = 0;
  /// When it was finished, or last written to; seconds since 1970.
  std::int64_t saved_s = 0;
  /// Why it is damaged.
  std::string problem{};
  /// Why a save would keep it: "newest", "best", "one of the last 3", "every 1000 steps".
  std::vector<std::string> kept_for{};
};

/// <run>/checkpoints. Throws UserError if `run` is not the directory of a run.
std::filesystem::path checkpoints_of(const std::filesystem::path& run);

/// Everything in a run's checkpoint directory, by step. Reads manifests only, and takes no lock: a
/// checkpoint that goes meanwhile is left out.
std::vector<CheckpointEntry> list_entries(const std::filesystem::path& run);

struct VerifiedCheckpoint {
  CheckpointName name;
  CheckpointDamage damage;
};

/// Reads every byte of the checkpoints of a run, or of the one of `step`, by step. Takes no lock;
/// one that goes meanwhile is left out. Throws UserError if there is none of `step`.
std::vector<VerifiedCheckpoint> verify_checkpoints(const std::filesystem::path& run,
                                                   std::optional<std::int64_t> step);

struct RepairReport {
  /// Left by saves that were cut short, and removed.
  std::vector<std::filesystem::path> removed{};
  /// Damaged, and moved aside: from, to.
  std::vector<std::pair<std::filesystem::path, std::filesystem::path>> set_aside{};
  /// Every checkpoint as it was found.
  std::vector<VerifiedCheckpoint> found;
  /// That a start continues from; none: no checkpoint is sound.
  std::optional<std::int64_t> newest_sound{};
};

/// Verifies all checkpoints, removes what saves that were cut short left, and moves damaged ones
/// aside, so that they are neither continued from nor counted. If none is sound, nothing is moved:
/// a start would otherwise begin anew. Throws UserError if a process trains there.
RepairReport repair_checkpoints(const std::filesystem::path& run);

struct PruneRequest {
  std::int64_t keep = 1;                     // newest sound ones
  std::optional<std::int64_t> keep_every{};  // none: what the run's job says
  bool dry_run = false;
};

struct PruneReport {
  std::vector<CheckpointEntry> kept, removed;
  std::int64_t removed_bytes = 0;
};

/// Removes complete checkpoints but for the newest `keep`, the best and every K-th. The newest that
/// counts is one of which every byte was verified. Damaged ones are neither counted nor removed.
/// Throws UserError if no checkpoint is sound, or a process trains there.
PruneReport prune_run(const std::filesystem::path& run, const PruneRequest& request);

}  // namespace thimble
