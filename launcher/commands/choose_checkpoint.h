// The checkpoint that a start of a run continues from, which all its ranks must agree on.
#pragma once

#include <filesystem>
#include <optional>

#include "checkpoint/checkpoint_reader.h"
#include "launcher/commands/train_rank.h"

namespace thimble {

/// Gives every rank the number that rank 0 knows.
std::int64_t from_leader(Communicator& comm, const char* what, std::int64_t value);

/// Rank 0 finds the checkpoint and verifies every byte of it; the others read its layout. None: the
/// run starts anew. Throws UserError if the arguments ask for one that is not there, or for none
/// where there are some, or all are damaged.
std::optional<CheckpointReader> agree_on_checkpoint(const TrainArguments& arguments,
                                                    Communicator& comm,
                                                    const std::filesystem::path& run,
                                                    const CheckpointIo& io);

/// Removes what saves and removals left that were cut off; not while the run's keeper saves.
void remove_unfinished(const std::filesystem::path& checkpoints);

/// The step of the newest checkpoint that is whole as far as its manifest says; -1: there is none.
std::int64_t newest_whole_step(const std::filesystem::path& checkpoints, const CheckpointIo& io);

/// Called on rank 0 when training begins from an earlier step than the last: otherwise a later
/// start would take a checkpoint saved after `step` for the newest of this run.
void move_later_checkpoints_aside(const std::filesystem::path& run, std::int64_t step);

}  // namespace thimble
