// What the keepers of all nodes have in memory of an earlier start, as the ranks of a new start
// find it, and which of it they can go on from.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "keeper/keeper_client.h"
#include "keeper/peer_client.h"
#include "parallel/communicator.h"

namespace thimble {

/// A rank's way to its keeper, and what it is called.
struct NearKeeper {
  KeeperOptions options;
  std::optional<KeeperClient> client;  // none: it is not there
};

class KeptMoments {
 public:
  /// Asks all keepers. All ranks together; `secret` is the same on all.
  KeptMoments(Communicator& comm, NearKeeper& near, std::string secret);

  /// The newest moment that is whole, or can be made whole by rebuilding, and has not been passed
  /// over; none: there is none. The same on all ranks.
  std::optional<SnapshotMoment> newest() const;
  /// Never again.
  void pass_over(const SnapshotMoment& moment) { passed_over_.push_back(moment); }
  /// Checks what is here of it, and rebuilds what a node has lost or what is damaged. Empty: every
  /// rank's part is there; else why not, the same on all ranks.
  std::string make_whole(const SnapshotMoment& moment);
  /// All parts of a moment that is whole.
  std::vector<SnapshotPart> parts(const SnapshotMoment& moment);

  const KeptRanks& here() const { return here_; }
  std::int64_t saving_step() const { return saving_step_; }
  bool any() const;

 private:
  template <typename Question>
  void ask_keeper(Question&& question);
  struct Found {
    SnapshotMoment moment;
    int rank = 0, ranks = 1;
    int at = 0;  // the rank of this start that has it near
  };
  struct Place {
    std::string node, address;
  };

  void ask();
  std::vector<int> missing(const SnapshotMoment& moment) const;
  const KeeperWorld* world(std::uint64_t start) const;
  bool can_rebuild(const SnapshotMoment& moment) const;
  std::vector<int> lost_nodes(const KeeperWorld& of, const SnapshotMoment& moment) const;
  std::string check_here(const SnapshotMoment& moment);
  std::string rebuild(const SnapshotMoment& moment);
  int rebuilder_of(const KeeperWorld& of, int node) const;
  bool is_first_of_node(int rank) const;

  Communicator& comm_;
  NearKeeper& near_;
  std::string secret_;
  KeptRanks here_;
  std::int64_t saving_step_ = -1;
  std::vector<Place> places_;  // by rank of this start
  std::vector<Found> found_;   // of all ranks
  std::vector<KeeperWorld> worlds_;
  std::vector<SnapshotMoment> passed_over_;
};

}  // namespace thimble
