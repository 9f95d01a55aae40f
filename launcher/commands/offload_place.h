// Where a run's state lies on disk: finds and checks the directory, looks for the state of a run
// that was cut off, and removes what is not needed any more.
#pragma once

#include <optional>

#include "launcher/commands/prepare_rank.h"
#include "launcher/commands/train_rank.h"
#include "train/offload_stores.h"

namespace thimble {

/// The directories, one on each disk, of one run's state on disk; none if all of its state is in
/// memory.
class OffloadPlace {
 public:
  /// Sets the directories of p.spec.offload, makes them, and decides what the run goes on from: a
  /// state on disk that is newer than the checkpoint. All ranks together. Throws UserError for a
  /// place that cannot be used, has too little room, or holds a state that the arguments would
  /// lose.
  OffloadPlace(const RankSetting& rank, Prepared& p,
               const std::optional<CheckpointReader>& checkpoint);
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
  void find_state(const RankSetting& rank, const Prepared& p, std::int64_t saved_step);
  void require_places(const Prepared& p, int ranks) const;
  void measure_disks(Communicator& comm, Prepared& p) const;
  void remove_all() noexcept;

  std::vector<std::filesystem::path> directories_;
  OffloadedRun run_;
  bool leads_ = false, has_state_ = false, keeps_ = false;
};

}  // namespace thimble
