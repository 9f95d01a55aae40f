// Snapshots of a run's state in the memory of its node's keeper, taken while training goes on, and
// saved to disk by the keeper: the trainer waits for neither. Which steps are taken and saved is
// decided in checkpoint_saving.
#pragma once

#include <array>
#include <chrono>
#include <optional>
#include <string>

#include "checkpoint/lazy_snapshot.h"
#include "keeper/keeper_client.h"
#include "launcher/trainer/step_hook.h"

namespace thimble {

class Snapshots {
 public:
  struct Parts {
    TrainEngine& engine;
    KeeperOptions keeper;
    std::string erasure;  // checkpoint.erasure
    std::string secret;   // of this start's keepers
    CheckpointIdentity identity;
    Reservation room;                         // of reserve_snapshots()
    std::uint64_t start = 0;                  // of this run's starts, the same on all ranks
    std::optional<MemoryFile> kept;           // of this rank, from an earlier start
    std::optional<SnapshotMoment> recovered;  // which it holds, and which must stay for now
    std::int64_t saving_step = -1;            // that the keeper still saves for an earlier start
    std::optional<KeeperClient> client;       // if there is one already
  };

  /// Starts the node's keeper if there is none. All ranks make theirs together. Throws SystemError.
  explicit Snapshots(Parts parts);
  ~Snapshots();

  /// Begins a snapshot of the step that has ended; with `save` it will be saved to disk. All ranks
  /// together. What fails is told, and training goes on: false if there is no snapshot on some
  /// rank.
  bool take(const RunState& run, bool save);
  /// The save that has ended since the last call, the same on all ranks; none: none has.
  std::optional<SaveOutcome> ended_save(const RunState& run);
  /// Waits for the save that is under way; none: there was none.
  std::optional<SaveOutcome> wait_for_save(const RunState& run);
  bool is_saving() const { return saving_.has_value(); }
  /// The run is over, and all of it on disk.
  void finish();

  std::int64_t taken() const { return taken_; }
  std::int64_t skipped() const { return skipped_; }
  const LazySnapshot& copy() const { return copy_; }

 private:
  void connect();
  template <typename Word>
  bool tell(Word&& word);
  void announce_world();
  bool is_protected(bool wait) const;
  std::byte look_at_keeper(const RunState& run);
  std::optional<SaveOutcome> hear_of_save();
  std::optional<SaveOutcome> agree_on(const RunState& run, std::optional<SaveOutcome> outcome);

  Parts parts_;
  MemoryFile memory_;
  MappedMemory mapped_;
  SnapshotMemory snapshots_;
  std::optional<KeeperClient> keeper_;
  int next_slot_ = 0;
  std::array<SnapshotMoment, SnapshotMemory::kSlots> in_slot_{};
  bool in_group_ = false;                        // other nodes protect this one's memory
  std::optional<SnapshotMoment> saving_;         // asked of the keeper; the same on all ranks
  std::chrono::steady_clock::time_point asked_;  // the keeper, about it
  bool older_ = true;                            // memory of earlier starts may still be there
  std::int64_t taken_ = 0, skipped_ = 0;
  LazySnapshot copy_;  // last: it writes to the memory
};

/// What they cost a run, at its end, in words.
std::string snapshots_text(const Snapshots& snapshots);

}  // namespace thimble
