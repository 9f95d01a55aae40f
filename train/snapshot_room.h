// The room in a rank's memory for snapshots of its state.
#pragma once

#include "checkpoint/snapshot_memory.h"
#include "train/train_engine.h"

namespace thimble {

/// Address space for the snapshots of this rank (tag snapshot), where their shared memory is
/// mapped; on a planning arena what it will take. Nothing without `wanted`.
Reservation reserve_snapshots(TrainEngine& engine, bool wanted);

}  // namespace thimble
