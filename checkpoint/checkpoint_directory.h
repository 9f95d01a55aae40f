// The directory that holds a run's checkpoints, ckpt-<step> each: listing, choosing, cleaning up.
// The caller holds the run's lock, so that no save is under way.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/checkpoint_reader.h"

namespace thimble {

struct CheckpointName {
  std::int64_t step = 0;
  std::filesystem::path path;
};

/// The checkpoints by ascending step, not looked into; empty if the directory does not exist.
std::vector<CheckpointName> list_checkpoints(const std::filesystem::path& directory);

/// Opens the newest checkpoint that passes every check, which reads it once. The message of each
/// one passed over is appended to `rejected`, newest first.
std::optional<CheckpointReader> open_newest_valid(const std::filesystem::path& directory,
                                                  CheckpointIo io,
                                                  std::vector<std::string>& rejected);

/// What interrupted saves and removals left, or a save that is under way writes: ckpt-<step>.tmp.
std::vector<CheckpointName> list_unfinished(const std::filesystem::path& directory);

/// Checkpoints that were moved out of the way: ckpt-<step>.old-<N>.
std::vector<CheckpointName> list_set_aside(const std::filesystem::path& directory);

/// Removes what interrupted saves and removals left; returns what it removed.
std::vector<std::filesystem::path> remove_stale(const std::filesystem::path& directory);

/// Which checkpoints stay.
struct Retention {
  /// The newest.
  std::int64_t keep_last = 1;
  /// Those whose step is a multiple of it, for ever; 0: none.
  std::int64_t keep_every = 0;
  /// Those of these steps.
  std::set<std::int64_t> protect{};

  /// Whether one stays that has `num_newer` newer ones beside it.
  bool keeps(std::int64_t step, std::int64_t num_newer) const;
};

/// Removes the checkpoints that do not stay. Name the one just saved in `protect`: a damaged one
/// may carry a higher step.
std::vector<std::filesystem::path> prune_checkpoints(const std::filesystem::path& directory,
                                                     const Retention& retention);

/// Removes one, so that a crash leaves it whole or out of the list.
void remove_checkpoint(const std::filesystem::path& checkpoint);

}  // namespace thimble
