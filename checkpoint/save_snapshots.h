// Makes a checkpoint on disk of snapshots in memory, in a process that knows nothing of the model:
// the same files as save_state() writes.
#pragma once

#include <filesystem>
#include <span>

#include "checkpoint/snapshot_reader.h"

namespace thimble {

/// Writes ckpt-<step> of the directory, from one part of every rank, which may be on other nodes;
/// each piece is checked before it is written. Holds the directory's saving lock. Throws
/// SystemError if the disk refuses, a byte is damaged, or the snapshots are not of one moment;
/// checkpoints that were there stay.
std::filesystem::path save_snapshots(const CheckpointIo& io, const std::filesystem::path& directory,
                                     const std::vector<SnapshotPart>& parts);

/// The lock of whoever saves to a directory of checkpoints, or cleans it up, without having the
/// run's own lock.
std::filesystem::path saving_lock_path(const std::filesystem::path& directory);

}  // namespace thimble
