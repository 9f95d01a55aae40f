// Finds, before a run starts, what its keepers still have in memory of an earlier start.
#pragma once

#include <memory>
#include <optional>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/snapshot_reader.h"
#include "keeper/keeper_client.h"
#include "launcher/commands/prepare_rank.h"
#include "launcher/trainer/snapshots.h"

namespace thimble {

/// Of this rank's node.
KeeperOptions keeper_of(const Prepared& p);

/// What the run goes on from, if it is in memory; the same moment on all ranks.
struct RecoveredSnapshots {
  std::optional<SnapshotMoment> moment;
  KeptRanks kept;                          // of this node; the reader reads it
  std::unique_ptr<SnapshotReader> reader;  // none without a moment
  std::int64_t saving_step = -1;           // that a keeper is saving
  std::string secret;                      // of this start's keepers; the same on all ranks
  std::optional<KeeperClient> client;      // of this node: while it is there, so are the ranks
  /// This rank's memory of that moment, to be filled on; none if it has none.
  std::optional<MemoryFile> own(int rank);
};

/// The newest moment that all ranks of an earlier start have sealed, or that can be rebuilt,
/// verified byte by byte, if it is not older than `saved_step`, that of the newest checkpoint on
/// disk. All ranks together. What the arguments do not let the run go on from is forgotten. Throws
/// UserError if they forbid to go on at all.
RecoveredSnapshots recover_snapshots(const RankSetting& rank, const Prepared& p,
                                     std::int64_t saved_step);

/// What a start goes on from: snapshots in memory, a checkpoint, or nothing. The same on all ranks.
struct SavedRun {
  /// Chooses the newest that the arguments allow. All ranks together. Throws as
  /// recover_snapshots() and agree_on_checkpoint().
  SavedRun(const RankSetting& rank, const Prepared& p, const CheckpointIo& io);
  std::int64_t step() const { return saved == nullptr ? -1 : saved->step(); }

  RecoveredSnapshots memory;
  std::optional<CheckpointReader> checkpoint;
  std::int64_t disk_step = -1;         // of the newest checkpoint on disk
  const StateReader* saved = nullptr;  // one of the two
  bool is_from_memory = false;
};

/// What snapshots are taken of, and where.
struct SnapshotSource {
  TrainEngine& engine;
  const CheckpointIdentity& identity;
  Reservation room;
};

/// None if the job takes none. `memory` is what the run was recovered from. All ranks together.
std::optional<Snapshots> make_snapshots(const RankSetting& rank, const Prepared& p,
                                        SnapshotSource source, RecoveredSnapshots memory);

}  // namespace thimble
