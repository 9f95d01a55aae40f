// What the offloaded state and the weights of a rank share: one memory to move bytes through, one
// file engine, and one disk on which the state of every step is whole. On a planning arena there is
// only the memory, and traffic is counted.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/nn/state_table.h"
#include "offload/commit_schedule.h"
#include "offload/slot_disk.h"

namespace thimble {

struct OffloadOptions {
  SlotDiskOptions disk;           // not used on a planning arena
  std::int64_t window_bytes = 0;  // of memory to move state through, if updates do not need more
  std::int64_t least_window = 0;  // see least_window_bytes()
  int queue_depth = 16;           // requests under way
  std::vector<StateId> cached;    // arrays that stay in memory: see choose_cached()
  std::int64_t commit_steps = 1;  // from one commit to the next
  std::optional<CommitRecord> recovered;  // what is on disk already; none: a run begins
};

/// Bytes of memory that an update leases at once at least: all kept state, and `weights`, of one
/// parameter that cannot be cut, or of one granule of rows.
std::int64_t least_window_bytes(const StateTable& table, const Optimizer& optimizer, int rank,
                                bool weights);

/// The name of an entry on disk.
std::string disk_key(const StateTable& table, const StateEntry& entry);

class OffloadHome {
 public:
  OffloadHome(Arena& arena, const StateTable& table, int rank, const OffloadOptions& options);

  Arena& arena() { return arena_; }
  const StateTable& table() const { return table_; }
  int rank() const { return rank_; }
  /// Null on a planning arena.
  SlotDisk* disk() { return disk_.get(); }
  /// Whether an entry is on disk: state is, gradients that are kept with it, and weights that
  /// cannot be derived from it.
  static bool is_on_disk(const StateEntry& entry) {
    return !entry.in_weight_store() || entry.saved;
  }
  int key_of(const StateEntry& entry) const { return keys_.at(static_cast<std::size_t>(entry.id)); }
  /// The bytes of a use among those that this rank keeps of the entry.
  KeyRange range_of(const StateEntry& entry, Slice rows) const;
  /// Memory for what updates lease, and for copies of weights on their way to the disk.
  std::byte* window() { return window_memory_; }
  std::int64_t window_bytes() const { return window_bytes_; }
  std::byte* staging(int piece) { return staging_memory_ + piece * kStagingBytes; }
  static constexpr int kStagingPieces = 3;
  static constexpr std::int64_t kStagingBytes = SlotDisk::kScratchBytes;  // of a piece

  /// The weights that are on disk are kept from now on; before start().
  void create_weights();
  /// Makes the files, or takes up those of the record; after all that is kept at first was created,
  /// by all ranks together.
  void start();
  /// Whether the disk holds an earlier state, of which creating and erasing change nothing until
  /// its first use.
  bool is_recovered() const { return recovered_.has_value(); }
  void in_use() { recovered_.reset(); }

  /// What makes transfers slower than they could be, one text for each thing.
  std::vector<std::string> why_slower() const;
  /// What the disk has moved, or on a planning arena would have.
  DiskTraffic traffic() const { return disk_ ? disk_->traffic() : planned_; }
  void plan_read(std::int64_t bytes) { planned_.read += bytes; }
  void plan_write(std::int64_t bytes) { planned_.written += bytes; }
  const std::vector<StateId>& cached() const { return cached_; }
  CommitSchedule& commits() { return commits_; }
  /// Kept with the state of the next commit.
  void set_note(std::string note) { note_ = std::move(note); }
  const std::string& note() const { return note_; }

 private:
  Arena& arena_;
  const StateTable& table_;
  int rank_;
  std::vector<int> keys_;  // by StateId; negative: not on disk
  std::int64_t window_bytes_;
  Reservation memory_;
  std::byte *window_memory_ = nullptr, *staging_memory_ = nullptr;
  std::unique_ptr<FileEngine> engine_;
  std::unique_ptr<SlotDisk> disk_;
  std::optional<CommitRecord> recovered_;
  std::vector<StateId> cached_;
  CommitSchedule commits_;
  DiskTraffic planned_;
  std::string note_;
};

}  // namespace thimble
