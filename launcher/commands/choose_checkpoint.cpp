#include "launcher/commands/choose_checkpoint.h"

#include <spdlog/spdlog.h>

#include "checkpoint/checkpoint_directory.h"
#include "checkpoint/save_snapshots.h"
#include "core/base/text.h"
#include "core/io/staged.h"
#include "parallel/collectives.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

void check_has_step(const fs::path& checkpoints, std::int64_t step) {
  std::vector<std::string> steps;
  for (const CheckpointName& c : list_checkpoints(checkpoints)) {
    if (c.step == step) return;
    steps.push_back(std::to_string(c.step));
  }
  throw_user("--resume-from {}: {} holds {}", step, checkpoints.string(),
             steps.empty() ? "no checkpoint" : "the checkpoints of steps " + join(steps));
}

// Where the checkpoint of a step is that the user has chosen.
fs::path chosen_path(const TrainArguments& arguments, const fs::path& checkpoints,
                     std::int64_t step) {
  if (!arguments.resume_directory.empty()) return arguments.resume_directory;
  return checkpoints / fmt::format("ckpt-{}", step);
}

std::optional<CheckpointReader> choose_checkpoint(const TrainArguments& arguments,
                                                  const std::filesystem::path& checkpoints,
                                                  const CheckpointIo& io) {
  if (arguments.resume == "never") {
    // A new run's checkpoints beside them would be taken for old ones.
    if (!list_checkpoints(checkpoints).empty()) {
      throw_user(
          "--resume never: {} holds the checkpoints of an earlier run; --fresh moves that run "
          "aside "
          "and starts anew",
          checkpoints.string());
    }
    return std::nullopt;
  }
  if (arguments.resume_from) {
    if (arguments.resume_directory.empty()) check_has_step(checkpoints, *arguments.resume_from);
    return CheckpointReader::open(chosen_path(arguments, checkpoints, *arguments.resume_from), io);
  }
  std::vector<std::string> rejected;
  std::optional<CheckpointReader> newest = open_newest_valid(checkpoints, io, rejected);
  for (const std::string& r : rejected) spdlog::warn("passed over: {}", r);
  if (!newest && !rejected.empty()) {
    throw_user("{}: no usable checkpoint is left; --fresh starts anew", checkpoints.string());
  }
  if (!newest && arguments.resume == "must") {
    throw_user("{}: there is no checkpoint to resume from (--resume must)", checkpoints.string());
  }
  return newest;
}

}  // namespace

std::int64_t from_leader(Communicator& comm, const char* what, std::int64_t value) {
  broadcast(comm, what, 0, std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

std::optional<CheckpointReader> agree_on_checkpoint(const TrainArguments& arguments,
                                                    Communicator& comm, const fs::path& run,
                                                    const CheckpointIo& io) {
  const fs::path checkpoints = run / "checkpoints";
  if (comm.rank() == 0) {
    std::optional<CheckpointReader> chosen = choose_checkpoint(arguments, checkpoints, io);
    from_leader(comm, "the checkpoint", chosen ? chosen->step() : -1);
    return chosen;
  }
  const std::int64_t step = from_leader(comm, "the checkpoint", -1);
  if (step < 0) return std::nullopt;
  return CheckpointReader::open(chosen_path(arguments, checkpoints, step), io,
                                CheckpointCheck::kManifest);
}

void remove_unfinished(const fs::path& checkpoints) {
  const fs::path lock = saving_lock_path(checkpoints);
  if (!fs::exists(lock)) {
    remove_stale(checkpoints);
    return;
  }
  try {
    const LockFile held(lock);
    remove_stale(checkpoints);
  } catch (const UserError&) {
    spdlog::info("{}: the keeper is saving there", checkpoints.string());
  }
}

std::int64_t newest_whole_step(const fs::path& checkpoints, const CheckpointIo& io) {
  const std::vector<CheckpointName> all = list_checkpoints(checkpoints);
  for (auto c = all.rbegin(); c != all.rend(); ++c) {
    try {
      return CheckpointReader::open(c->path, io, CheckpointCheck::kManifest).step();
    } catch (const std::runtime_error&) {
      // Told when it is passed over, if it comes to that.
    }
  }
  return -1;
}

void move_later_checkpoints_aside(const fs::path& run, std::int64_t step) {
  for (const CheckpointName& c : list_checkpoints(run / "checkpoints")) {
    if (c.step <= step) continue;
    spdlog::info("{} is now {}", c.path.string(), move_aside(c.path).filename().string());
  }
}

}  // namespace thimble
