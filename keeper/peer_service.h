// What a keeper does for the keepers of other nodes: holds parity of what they have, has its own
// protected by them, and gives them what they ask for.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "keeper/parity_store.h"
#include "keeper/peer_client.h"
#include "keeper/peer_sender.h"

namespace thimble {

/// Parts of a moment on all nodes of its world but `world.me`. Throws SystemError if a node does
/// not answer.
std::vector<SnapshotPart> parts_elsewhere(const KeeperWorld& world, const SnapshotMoment& moment);

class PeerService {
 public:
  explicit PeerService(KeptRanks& kept) : kept_(kept) {}

  /// Whoever shows this is answered from now on.
  void meet(const std::string& secret) { secret_ = secret; }
  bool knows(const std::string& secret) const { return !secret_.empty() && secret == secret_; }
  /// The start that takes snapshots from now on. What was of earlier ones stays.
  void join(KeeperWorld world);
  /// Texts of all worlds of which something may be here.
  std::vector<std::string> worlds() const;
  const KeeperWorld* world(std::uint64_t start) const;
  void drop_older(std::uint64_t start);
  void forget();

  /// A message of another keeper, or of a rank of another node. Throws for one that is none.
  void answer(Channel& channel, ChannelMessage& message);
  /// Sends what has been sealed here since the last call; true: nodes of a group are expected to
  /// have news soon.
  bool look();
  /// Rebuilds a lost node's ranks of a moment into what is kept here. `addresses`: of the keepers
  /// of the nodes of that moment's start, by node; empty: lost.
  void rebuild_here(const KeeperWorld& of, const SnapshotMoment& moment, int node,
                    const std::vector<std::string>& addresses);

 private:
  struct Start {
    KeeperWorld world;
    std::unique_ptr<ParityStore> parity;  // none: in no group
  };
  ParityStore* parity_of(const SnapshotMoment& moment);
  void take_block(ChannelMessage& message, Channel& channel);
  void note_encoded(const SnapshotMoment& moment, int node);
  void give_parts(Channel& channel, const SnapshotMoment& moment) const;

  KeptRanks& kept_;
  std::string secret_;
  std::map<std::uint64_t, Start> starts_;
  std::uint64_t current_ = 0;
  std::unique_ptr<PeerSender> sender_;  // of the current start; none: in no group
  std::uint64_t seen_ = 0;              // signature of what is kept
  SnapshotMoment sent_{-1, 0};
  std::map<std::int64_t, std::set<int>> encoded_;  // step -> nodes of the group that said so
};

}  // namespace thimble
