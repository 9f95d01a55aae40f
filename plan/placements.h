// The ladder of placements: what of a training state lies in memory, on a GPU's host, on disk, from
// the fastest on.
#pragma once

#include <vector>

#include "plan/memory_plan.h"

namespace thimble {

/// The spec at every placement that it leaves open, in the order in which they are worth trying:
/// each takes more of the disk's time than those before it. The first is the spec's own.
std::vector<TrainSpec> placements(const TrainSpec& spec, const RankPlace& place);

OffloadedParts parts_elsewhere(const OffloadSpec& spec);
void put_elsewhere(const OffloadedParts& parts, OffloadSpec& spec);

/// Whether some weights are kept in 8 bits: they stay in memory, and below ZeRO stage 3.
bool has_int8(const TrainSpec& spec);

}  // namespace thimble
