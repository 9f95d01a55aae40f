// The parity that a node holds of the others in its group, in two slots: one is filled with what
// the others send, block by block, while the other keeps the parity of the moment before.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "checkpoint/erasure_code.h"
#include "keeper/keeper_world.h"
#include "keeper/kept_ranks.h"

namespace thimble {

class ParityStore {
 public:
  /// Of a node in a group; `world.me` is it.
  ParityStore(const KeeperWorld& world, const CodeGroup& group);

  /// Adds a node's block of a stripe to the parity that is held here. Blocks of an older moment
  /// than the newest are not taken. Throws SystemError for what is no such block.
  void add(const SnapshotMoment& moment, int node, std::int64_t stripe,
           std::span<const std::byte> block);
  /// That node has sent all of its blocks. True: now all have, and the parity of the moment counts.
  bool note_done(const SnapshotMoment& moment, int node);
  /// The parity of a stripe; none if it does not count, or is damaged.
  std::optional<std::span<const std::byte>> block(const SnapshotMoment& moment,
                                                  std::int64_t stripe) const;
  /// The newest moment whose parity counts.
  std::optional<SnapshotMoment> newest() const;

  const CodeGroup& group() const { return group_; }
  const StripeLayout& layout() const { return layout_; }
  /// This node's number in the group.
  int me() const { return me_; }

 private:
  struct Slot {
    SnapshotMoment moment{-1, 0};
    std::vector<std::byte> bytes;
    std::vector<bool> done;           // by node of the group
    std::vector<std::uint32_t> crcs;  // by stripe; once it counts
    bool counts = false;
  };
  Slot* find(const SnapshotMoment& moment);
  const Slot* find(const SnapshotMoment& moment) const;
  Slot* begin(const SnapshotMoment& moment);
  std::span<std::byte> parity_of(Slot& slot, const Stripe& stripe) const;

  CodeGroup group_;
  StripeLayout layout_;
  ErasureCode code_;
  int me_;
  std::array<Slot, 2> slots_;
};

}  // namespace thimble
