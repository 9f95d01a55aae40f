#include "launcher/commands/checkpoint_room.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "checkpoint/checkpoint_directory.h"
#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/file_system.h"
#include "launcher/plan/job_plan.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

/// What the files of a run's checkpoints hold; those that go meanwhile are not counted.
std::int64_t held_bytes(const fs::path& run) {
  std::int64_t bytes = 0;
  for (const CheckpointName& checkpoint : list_checkpoints(run / "checkpoints")) {
    std::error_code gone;
    for (const auto& entry : fs::directory_iterator(checkpoint.path, gone)) {
      const auto size = entry.file_size(gone);
      if (!gone) bytes += static_cast<std::int64_t>(size);
    }
  }
  return bytes;
}

/// Whether two checkpoints, or the only one, fit.
bool fits_any(const CheckpointRoom& room, std::int64_t there) {
  const std::int64_t fewest = room.num_kept + (room.one_more ? 1 : 0);
  return std::min<std::int64_t>(fewest, 2) * room.bytes_each <= there;
}

std::string smaller_settings(const job::CheckpointConfig& config) {
  std::string text = "checkpoint.save_total_limit";
  text += config.save_total_limit > 1
              ? fmt::format(" = 1 instead of {} keeps fewer", config.save_total_limit)
              : " is 1 already";
  if (config.keep_every > 0) {
    text += fmt::format(", and a greater checkpoint.keep_every than {} too", config.keep_every);
  }
  return text + "; output_dir can be on another disk";
}

}  // namespace

std::string CheckpointRoom::text() const {
  return fmt::format("{} checkpoint{} of {} {} kept{}: {}", num_kept, num_kept == 1 ? "" : "s",
                     format_bytes(bytes_each), num_kept == 1 ? "is" : "are",
                     one_more ? " and one more is being written" : "", format_bytes(bytes()));
}

CheckpointRoom checkpoint_room(const job::JobConfig& job, std::int64_t steps,
                               std::int64_t checkpoint_bytes) {
  const job::CheckpointConfig& config = job.checkpoint;
  const bool best = job.export_.checkpoint == job::ExportChoice::kBest && job.eval.eval_steps > 0;
  const std::int64_t every = config.keep_every > 0 ? steps / config.keep_every : 0;
  std::int64_t saves = steps;
  if (const auto interval = config.save_steps.value) {
    saves = std::min(steps, (*interval > 0 ? ceil_div(steps, *interval) : 1) + every);
  }
  saves += best ? 1 : 0;
  const std::int64_t kept =
      std::min(saves, std::min(config.save_total_limit, steps) + every + (best ? 1 : 0));
  return {.num_kept = kept, .one_more = saves > kept, .bytes_each = checkpoint_bytes};
}

void require_checkpoint_room(const fs::path& run, const job::JobConfig& job,
                             const CheckpointRoom& room) {
  const std::int64_t held = held_bytes(run), free_bytes = file_system_of(run).free_bytes,
                     there = free_bytes + held;
  if (room.bytes() <= there) return;
  const std::string message = fmt::format(
      "{}: {}, and {} are free{}; {}", run.string(), room.text(), format_bytes(free_bytes),
      held > 0 ? fmt::format(" beside the {} of checkpoints that are there", format_bytes(held))
               : "",
      smaller_settings(job.checkpoint));
  if (!fits_any(room, there)) throw UserError(message);
  spdlog::warn("{}", message);
}

std::string checkpoint_room_text(const job::JobConfig& job, const CheckpointRoom& room) {
  fs::path where = existing_part(fs::path(job.output_dir));
  if (where.empty()) where = ".";
  const std::int64_t free_bytes = file_system_of(where).free_bytes;
  if (!fits_any(room, free_bytes)) {
    spdlog::warn("too little room for checkpoints on the disk: `train` refuses the job there");
  }
  return fmt::format("checkpoints: {} of the disk; {} are free at {}", room.text(),
                     format_bytes(free_bytes), where.string());
}

}  // namespace thimble
