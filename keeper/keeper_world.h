// The nodes of one start of a run, as their keepers know each other: who has which ranks, where
// they are reached, and whose loss they make up for together.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/code_shape.h"
#include "checkpoint/snapshot_layout.h"
#include "checkpoint/stripe_layout.h"

namespace thimble {

struct NodeRank {
  int rank = 0;
  SnapshotRoom room;  // of its snapshots
};

struct KeeperNode {
  std::string name;
  std::string address;  // of its keeper: "ADDRESS:PORT"
  std::vector<NodeRank> ranks;

  /// Of the images of its ranks' slots, one behind the other: what the others protect.
  std::int64_t shard_bytes() const;
};

struct KeeperWorld {
  std::uint64_t start = 0;
  std::string secret;   // that keepers of this start show each other
  std::string erasure;  // "none", "K+M" or "auto"; checked
  int me = 0;           // of the nodes, the one that reads this
  std::vector<KeeperNode> nodes;

  int ranks() const;
  int node_of(int rank) const;
  std::vector<CodeGroup> groups() const;
  /// Of a node; none if nobody protects it.
  std::optional<CodeGroup> group_of(int node) const;
  /// How the shards of a group are cut.
  StripeLayout layout(const CodeGroup& group) const;
};

std::string world_text(const KeeperWorld& world);
/// Throws SystemError for anything that world_text() does not write.
KeeperWorld parse_world(const std::string& text);

}  // namespace thimble
