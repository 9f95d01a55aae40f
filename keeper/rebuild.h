// Rebuilds what a lost node had of a moment from the others of its group.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "keeper/keeper_world.h"
#include "keeper/peer_client.h"

namespace thimble {

/// What is to be rebuilt.
struct LostNode {
  const KeeperWorld& world;  // of the start that took the snapshots
  SnapshotMoment moment;
  int node = 0;           // that is lost
  std::vector<int> lost;  // all that are, among them that one
};

/// The memory of the lost node's ranks, with that moment in their first slots. `peer` gives the
/// keeper of a node that is not lost. Throws SystemError if more is lost or damaged in a stripe
/// than its parity can make up for, or somebody does not answer.
std::vector<std::pair<int, MemoryFile>> rebuild(
    const LostNode& lost, const std::function<std::shared_ptr<PeerClient>(int node)>& peer);

}  // namespace thimble
