// Asks the keeper of another node for what it has.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "checkpoint/snapshot_reader.h"
#include "core/io/channel.h"
#include "keeper/kept_ranks.h"

namespace thimble {

class PeerClient {
 public:
  /// Throws SystemError if nobody answers at "ADDRESS:PORT", or it is no keeper of this start.
  PeerClient(const std::string& address, const std::string& secret);

  /// The snapshots of a moment that are there, as parts that read through this client, which must
  /// be owned by a shared pointer.
  static std::vector<SnapshotPart> parts(const std::shared_ptr<PeerClient>& peer,
                                         const SnapshotMoment& moment);
  /// Fills it with bytes of what the node has of a moment (NodeShard); false: it is not there.
  bool read_shard(const SnapshotMoment& moment, std::int64_t offset, std::span<std::byte> to);
  /// Fills it with the parity of a stripe that the node holds; false: it is not there, or damaged.
  bool read_parity(const SnapshotMoment& moment, std::int64_t stripe, std::span<std::byte> to);

 private:
  void read(const SnapshotMoment& moment, int rank, std::int64_t offset, std::span<std::byte> to);
  bool ask_for_bytes(const std::string& text, std::span<std::byte> to);
  ChannelMessage ask(const std::string& text);

  std::mutex mutex_;
  Channel channel_;
};

}  // namespace thimble
