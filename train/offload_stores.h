// Joins the state of a training engine with the disk: which files hold it (of the checkpoint's
// layout, so that a state on disk can become a checkpoint), who makes them, and how ranks agree.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "checkpoint/adopt_file.h"
#include "core/base/numeric.h"
#include "offload/offload_home.h"
#include "offload/offloaded_weights.h"
#include "offload/persisted_weights.h"
#include "parallel/communicator.h"
#include "train/offload_spec.h"
#include "train/train_engine.h"

namespace thimble {

struct CommittedState {
  /// The newest that all ranks have committed whole. None: there is none, it is another run's, or a
  /// crash has left it half changed in place.
  std::optional<CommitRecord> record;
  std::string damage;       // why this rank cannot read a record that it has; empty: it can
  bool is_damaged = false;  // some rank cannot
};

/// What is in the directory; all ranks together.
CommittedState find_committed_state(const OffloadSpec& spec, const std::string& identity,
                                    Communicator& comm);

/// Removes what an earlier state left in the directory.
void remove_offloaded_state(const std::filesystem::path& directory) noexcept;

/// Which run an offloaded state belongs to, and what it goes on from.
struct OffloadedRun {
  std::string identity;                   // of the run, the same on all ranks
  std::optional<CommitRecord> recovered;  // what is on disk; none: the state begins anew
};

class OffloadStores {
 public:
  /// Of memory to move through, the most that is taken where nothing is said.
  static constexpr std::int64_t kMostWindow = 128 * kMiB, kMostDelayedWindow = 512 * kMiB;

  /// All that is given by reference must outlive the engine that is given stores().
  OffloadStores(const OffloadSpec& spec, const Optimizer& optimizer, Communicator& comm,
                OffloadedRun run = {});

  /// What the engine keeps its state in; for one engine.
  EngineStores stores();
  /// After the engine was made upon a committed state: reads the weights that are in memory.
  void restore_weights();
  /// Makes the committed state a checkpoint, which then shares its file; all ranks together. None:
  /// it has to be copied (not everything is kept at this step, ranks have files of their own, or
  /// the directory is on another file system). Throws CheckpointNotSaved on all ranks if the disk
  /// refuses.
  std::optional<std::filesystem::path> lend_checkpoint(std::int64_t state_step,
                                                       const CheckpointTarget& target);
  /// The engine's; null before it was made.
  OffloadHome* home() { return home_.get(); }

 private:
  SlotMaker slot_maker(const StateTable& table, int rank) const;
  bool can_lend(std::int64_t state_step, const CheckpointTarget& target) const;
  std::vector<WrittenRun> runs_of_all_ranks(int file) const;
  std::shared_ptr<OffloadHome> make_home(Arena& arena, const StateTable& table, int rank);

  OffloadSpec spec_;
  const Optimizer& optimizer_;
  Communicator& comm_;
  OffloadedRun run_;
  std::shared_ptr<OffloadHome> home_;
  PersistedWeights* persisted_ = nullptr;  // the engine's weights, one of the two
  OffloadedWeights* offloaded_ = nullptr;
  bool one_file_has_all_ = false;  // of one rank at least
};

}  // namespace thimble
