#include "train/snapshot_room.h"

namespace thimble {

Reservation reserve_snapshots(TrainEngine& engine, bool wanted) {
  if (!wanted) return {};
  const std::int64_t bytes =
      SnapshotMemory::bytes_for(snapshot_room(engine.table(), engine.rank()));
  return engine.arena().reserve(MemoryTag::kSnapshot, bytes, "snapshots");
}

}  // namespace thimble
