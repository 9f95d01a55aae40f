// A rank's way to the keeper of its node.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "core/io/channel.h"
#include "core/io/memory_file.h"
#include "keeper/keeper.h"
#include "keeper/keeper_world.h"
#include "keeper/snapshot_saver.h"

namespace thimble {

/// What a keeper has.
struct KeptMemory {
  std::vector<std::pair<int, MemoryFile>> ranks;
  std::int64_t saving_step = -1;    // that it is saving to disk, or is about to; -1: none
  std::vector<KeeperWorld> worlds;  // of the starts that it knows
};

class KeeperClient {
 public:
  /// To the keeper that is there; none if there is none.
  static std::optional<KeeperClient> find(const KeeperOptions& options, int rank);
  /// The same, but starts one by the program's command `keeper` if there is none. Throws
  /// SystemError.
  static KeeperClient find_or_start(const KeeperOptions& options, int rank);

  /// All but is_alive() and take_outcome() throw SystemError if the keeper does not answer.
  KeptMemory look();
  void keep(int rank, std::uint64_t start, const MemoryFile& memory);
  void drop_older();
  void forget();
  void save(const SnapshotMoment& moment);
  /// That it is saving, or is about to; -1: none.
  std::int64_t saving_step();
  /// Others that show this may ask it from now on.
  void meet(const std::string& secret);
  /// The nodes of this start.
  void join(const KeeperWorld& world);
  /// See PeerService::rebuild_here().
  void rebuild(const KeeperWorld& of, const SnapshotMoment& moment, int node,
               const std::vector<std::string>& addresses);
  /// At which other nodes reach it.
  const std::string& address() const { return address_; }
  void finish();
  /// Of a save that has ended since the last call; on rank 0.
  std::optional<SaveOutcome> take_outcome();
  /// False once the keeper is known to be gone.
  bool is_alive();

 private:
  explicit KeeperClient(Channel channel) : channel_(std::move(channel)) {}
  void hello(int rank);
  ChannelMessage ask(const std::string& text, int descriptor = -1);
  ChannelMessage next_answer();
  void take_events();

  Channel channel_;
  std::string address_;
  std::deque<SaveOutcome> outcomes_;
  bool alive_ = true;
};

}  // namespace thimble
