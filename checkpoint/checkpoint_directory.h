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

/// Removes what interrupted saves and removals left; returns what it removed.
std::vector<std::filesystem::path> remove_stale(const std::filesystem::path& directory);

/// Removes all but the `keep_last` newest checkpoints and those whose step is in `protect`. Name
/// the one just saved in `protect`: a damaged one may carry a higher step. A crash leaves each
/// checkpoint whole or out of the list.
std::vector<std::filesystem::path> prune_checkpoints(const std::filesystem::path& directory,
                                                     std::int64_t keep_last,
                                                     const std::set<std::int64_t>& protect);

}  // namespace thimble
