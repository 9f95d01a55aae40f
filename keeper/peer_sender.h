// Sends what this node has of a moment to the nodes of its group that hold the parity, on a thread
// of its own, so that the keeper stays at hand meanwhile.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "core/io/channel.h"
#include "keeper/keeper_world.h"
#include "keeper/node_shard.h"

namespace thimble {

class PeerSender {
 public:
  /// `world.me` is this node, in a group.
  PeerSender(KeeperWorld world, const CodeGroup& group);
  /// Ends what is under way.
  ~PeerSender();
  PeerSender(const PeerSender&) = delete;
  PeerSender& operator=(const PeerSender&) = delete;

  /// Sends all blocks of the shard, in place of one that still waits.
  void send_shard(NodeShard shard);
  /// Tells all others of the group that the parity here counts.
  void say_encoded(const SnapshotMoment& moment);

 private:
  void run();
  void send_blocks(const NodeShard& shard);
  void say_to_all(std::string_view what, const SnapshotMoment& moment);
  void say(int node, const std::string& text, std::span<const std::byte> block = {});
  bool is_ending() const;

  const KeeperWorld world_;
  const CodeGroup group_;
  const StripeLayout layout_;
  std::map<int, Channel> channels_;  // by node of the group; of the thread alone
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<NodeShard> next_;
  std::optional<SnapshotMoment> encoded_;
  bool ends_ = false;
  std::thread thread_;  // last: it uses all of the others
};

}  // namespace thimble
