// Saves snapshots to disk on a thread of its own, one after the other.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "checkpoint/snapshot_reader.h"
#include "keeper/kept_ranks.h"

namespace thimble {

/// How a save ended.
struct SaveOutcome {
  SnapshotMoment moment;
  std::filesystem::path path;  // of the checkpoint
  std::string failure;         // empty: it is there
  double seconds = 0;
};

class SnapshotSaver {
 public:
  /// `ended` is called on the saver's thread whenever a save has ended; write_rate: bytes per
  /// second, 0: as fast as it goes.
  explicit SnapshotSaver(std::function<void()> ended, std::int64_t write_rate = 0);
  /// Waits for the save that is under way.
  ~SnapshotSaver();
  SnapshotSaver(const SnapshotSaver&) = delete;
  SnapshotSaver& operator=(const SnapshotSaver&) = delete;

  /// Of all ranks of a moment; called on the saver's thread. What it throws ends the save.
  using Gather = std::function<std::vector<SnapshotPart>()>;
  /// Begins to save what `gather` finds of the moment, of which `place` is here. None may be under
  /// way.
  void save(const MomentPlace& place, Gather gather, const std::filesystem::path& directory);
  bool is_busy() const;
  /// The moment that is being saved; none: nothing is.
  std::optional<SnapshotMoment> saving() const;
  /// Of the last save, once; none: it has not ended.
  std::optional<SaveOutcome> take_outcome();

 private:
  void run();
  SaveOutcome save_now(const MomentPlace& place, const Gather& gather,
                       const std::filesystem::path& directory) const;

  std::function<void()> ended_;
  std::int64_t write_rate_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<MomentPlace> place_;
  Gather gather_;
  std::filesystem::path directory_;
  std::optional<SaveOutcome> outcome_;
  bool ends_ = false;
  std::thread thread_;  // last: it uses all of the others
};

}  // namespace thimble
