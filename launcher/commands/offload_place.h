// Where a run's state lies on disk: finds and checks the directory, looks for the state of a run
// that was cut off, and removes what is not needed any more.
#pragma once

#include <optional>
#include <vector>

#include "core/io/file.h"
#include "launcher/commands/prepare_rank.h"
#include "launcher/commands/train_rank.h"
#include "train/offload_stores.h"

namespace thimble {

/// The key that names a place, and its value.
std::string key_and_path(const Prepared& p, const std::filesystem::path& directory);

/// Removes what a run that is finished was killed too early to remove.
void remove_finished_state(const Prepared& p);

/// The directories, one on each disk, of one run's state on disk; none if all of its state is in
/// memory.
class OffloadPlace {
 public:
  /// Sets the directories of p.spec.offload, makes them, and decides what the run goes on from: a
  /// state on disk that is newer than what is saved (-1: nothing). All ranks together. Throws
  /// UserError for a place that cannot be used, is in use, has too little room, or holds a state
  /// that the arguments would lose or that is another run's; then everything is as it was.
  OffloadPlace(const RankSetting& rank, Prepared& p, std::int64_t saved_step);
  /// Removes the state, unless keep() was called or it was there before.
  ~OffloadPlace();
  OffloadPlace(const OffloadPlace&) = delete;
  OffloadPlace& operator=(const OffloadPlace&) = delete;

  const OffloadedRun& run() const { return run_; }
  bool is_recovered() const { return run_.recovered.has_value(); }
  /// Training begins: from now on the state is what an interrupted run goes on from.
  void keep() { keeps_ = has_state_; }
  /// Removes the state of a run that has ended, whose last step is saved; all ranks together.
  void remove(Communicator& comm);

 private:
  void settle(const RankSetting& rank, Prepared& p, std::int64_t saved_step);
  void make_directories(const Prepared& p) const;
  void hold(const Prepared& p);
  void check_owner(const Prepared& p) const;
  void find_state(const RankSetting& rank, const Prepared& p, std::int64_t saved_step);
  void move_state_aside(Communicator& comm, std::optional<std::int64_t> step);
  void require_places(const Prepared& p, int ranks) const;
  std::int64_t state_bytes(const Prepared& p, std::size_t disk) const;
  double share_of(const Prepared& p, std::size_t disk) const;
  void require_state_room(const Prepared& p) const;
  void measure_disks(Communicator& comm, Prepared& p) const;
  void remove_all() noexcept;
  void release() noexcept;
  void leave() noexcept;

  std::vector<std::filesystem::path> directories_;
  std::vector<std::filesystem::path> above_;  // what of their paths was there before
  std::filesystem::path note_;                // in the run's directory: where they are
  OffloadedRun run_;
  std::vector<LockFile> locks_;  // of the leader, where the run's own lock does not reach
  bool leads_ = false, has_state_ = false, keeps_ = false;
};

}  // namespace thimble
