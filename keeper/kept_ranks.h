// The memory of the ranks' snapshots, as the keeper has it: it stays when the ranks are gone.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "checkpoint/snapshot_memory.h"
#include "core/io/memory_file.h"

namespace thimble {

/// One rank's memory.
struct KeptRank {
  KeptRank(int of_rank, MemoryFile kept)
      : rank(of_rank),
        memory(std::move(kept)),
        mapped(memory),
        snapshots(SnapshotMemory::open(mapped.bytes())) {}

  int rank;
  MemoryFile memory;
  MappedMemory mapped;
  SnapshotMemory snapshots;
  bool older = false;  // of ranks that are gone; it goes when those that follow have sealed theirs
};

/// A moment of which every rank has a sealed snapshot.
struct SnapshotMoment {
  std::int64_t step = 0;
  std::uint64_t start = 0;
  friend bool operator==(const SnapshotMoment&, const SnapshotMoment&) = default;
};

/// Where a moment is: the slot of each of its ranks, in their order. The memory stays as long.
struct MomentPlace {
  SnapshotMoment moment;
  std::vector<std::pair<std::shared_ptr<const KeptRank>, int>> slots;
};

class KeptRanks {
 public:
  /// In the place of that rank's memory, if it is not an older one.
  void keep(int rank, MemoryFile memory);
  /// All that is there is of ranks that are gone.
  void make_older();
  void drop_older();
  void clear() { kept_.clear(); }
  const std::vector<std::shared_ptr<KeptRank>>& all() const { return kept_; }

  /// A whole slot.
  struct Whole {
    SnapshotMoment moment;
    int rank = 0, ranks = 1;
    std::shared_ptr<const KeptRank> kept;
    int slot = 0;
  };
  /// All of them, newest first; damaged ones are told in `damaged`.
  std::vector<Whole> whole(std::vector<std::string>& damaged) const;
  /// Changes whenever a slot becomes whole, or no longer is. Cheap.
  std::uint64_t signature() const;
  /// What is here of a moment, in the order of the ranks, each once; there may be more elsewhere.
  MomentPlace here(const SnapshotMoment& moment) const;

  /// The newest moment of which all ranks of its world are here; damaged slots are passed over and
  /// told in `damaged`.
  std::optional<MomentPlace> newest(std::vector<std::string>& damaged) const;
  /// The same of one moment.
  std::optional<MomentPlace> find(const SnapshotMoment& moment,
                                  std::vector<std::string>& damaged) const;

 private:
  std::vector<std::shared_ptr<KeptRank>> kept_;
};

/// What the slots hold. Throws SystemError if one is damaged or no longer whole.
std::vector<SealedSnapshot> snapshots_of(const MomentPlace& place);

}  // namespace thimble
