// The room that a run's checkpoints will take of its disk, told before it starts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "launcher/job/job_config.h"

namespace thimble {

/// Checkpoints at the fullest moment of a run.
struct CheckpointRoom {
  std::int64_t num_kept = 0;
  /// One more while it is written, before an older one goes.
  bool one_more = false;
  std::int64_t bytes_each = 0;

  std::int64_t bytes() const { return (num_kept + (one_more ? 1 : 0)) * bytes_each; }
  /// "4 checkpoints of 1.2 GiB are kept and one more is being written: 6 GiB"
  std::string text() const;
};

/// What the job keeps in a run of `steps` steps: the newest, the best if that is to be exported,
/// every K-th step. A bound: they may be the same ones.
CheckpointRoom checkpoint_room(const job::JobConfig& job, std::int64_t steps,
                               std::int64_t checkpoint_bytes);

/// Compares it with what is free beside the run, what its checkpoints take already counted as
/// theirs. Warns, naming the settings that take less; throws UserError if not even one checkpoint
/// beside the one that is being written fits.
void require_checkpoint_room(const std::filesystem::path& run, const job::JobConfig& job,
                             const CheckpointRoom& room);

/// The line of `thimble plan`: the room and what is free where the run would be.
std::string checkpoint_room_text(const job::JobConfig& job, const CheckpointRoom& room);

}  // namespace thimble
