#include "keeper/rebuild.h"

#include <algorithm>

#include "checkpoint/erasure_code.h"
#include "core/base/error.h"
#include "core/base/numeric.h"
#include "keeper/node_shard.h"

namespace thimble {
namespace {

// Fresh memory of the node's ranks, as a shard that is to be filled.
NodeShard empty_shard(const LostNode& lost) {
  MomentPlace place{lost.moment, {}};
  for (const NodeRank& rank : lost.world.nodes[narrow<std::size_t>(lost.node)].ranks) {
    MemoryFile memory =
        MemoryFile::create("thimble-snapshots", SnapshotMemory::bytes_for(rank.room));
    {
      const MappedMemory mapped(memory);
      SnapshotMemory::make(mapped.bytes(), rank.room);
    }
    place.slots.emplace_back(std::make_shared<KeptRank>(rank.rank, std::move(memory)), 0);
  }
  return NodeShard(std::move(place));
}

class Rebuilder {
 public:
  Rebuilder(const LostNode& lost, const CodeGroup& group,
            const std::function<std::shared_ptr<PeerClient>(int)>& peer)
      : lost_(lost), group_(group), peer_(peer), code_(group.shape) {}

  // One block of the lost node's data. A block that another node cannot give counts as lost.
  std::vector<std::byte> block(std::int64_t index, const Stripe& stripe) {
    const int own = stripe.block_of(lost_.node - group_.first_node);
    std::vector<int> lost_blocks;
    for (const int node : lost_.lost) {
      if (node >= group_.first_node && node < group_.first_node + group_.shape.num_nodes())
        lost_blocks.push_back(stripe.block_of(node - group_.first_node));
    }
    while (true) {
      const ErasureCode::Rebuild how = code_.rebuild(lost_blocks);
      const int row =
          narrow<int>(std::find(how.lost.begin(), how.lost.end(), own) - how.lost.begin());
      std::vector<std::byte> built(
          narrow<std::size_t>(stripe.members[narrow<std::size_t>(own)].bytes));
      bool whole = true;
      for (std::size_t s = 0; s < how.sources.size() && whole; ++s) {
        const std::vector<std::byte> source = fetch(index, stripe, how.sources[s], whole);
        if (whole) how.transform.add(narrow<int>(s), source, row, built);
        if (!whole) lost_blocks.push_back(how.sources[s]);
      }
      if (whole) return built;
    }
  }

 private:
  std::vector<std::byte> fetch(std::int64_t index, const Stripe& stripe, int block, bool& whole) {
    const StripeMember& member = stripe.members[narrow<std::size_t>(block)];
    const std::shared_ptr<PeerClient> from = peer_(group_.first_node + member.node);
    const bool is_data = block < group_.shape.data;
    std::vector<std::byte> bytes(narrow<std::size_t>(is_data ? member.bytes : stripe.bytes));
    if (bytes.empty()) return bytes;
    whole = is_data ? from->read_shard(lost_.moment, member.offset, bytes)
                    : from->read_parity(lost_.moment, index, bytes);
    return bytes;
  }

  const LostNode& lost_;
  const CodeGroup& group_;
  const std::function<std::shared_ptr<PeerClient>(int)>& peer_;
  ErasureCode code_;
};

}  // namespace

std::vector<std::pair<int, MemoryFile>> rebuild(
    const LostNode& lost, const std::function<std::shared_ptr<PeerClient>(int node)>& peer) {
  const std::optional<CodeGroup> group = lost.world.group_of(lost.node);
  if (!group) throw_system("nobody protects the memory of node {}", lost.node);
  const StripeLayout layout = lost.world.layout(*group);
  NodeShard shard = empty_shard(lost);
  Rebuilder rebuilder(lost, *group, peer);
  for (std::int64_t i = 0; i < layout.num_stripes(); ++i) {
    const Stripe stripe = layout.stripe(i);
    const int own = stripe.block_of(lost.node - group->first_node);
    const StripeMember& member = stripe.members[narrow<std::size_t>(own)];
    if (own < group->shape.data && member.bytes > 0)
      shard.write(member.offset, rebuilder.block(i, stripe));
  }
  std::vector<std::pair<int, MemoryFile>> ranks;
  for (const auto& [kept, slot] : shard.place().slots) {
    SnapshotMemory(kept->snapshots).restored(slot);
    ranks.emplace_back(kept->rank, share(kept->memory));
  }
  return ranks;
}

}  // namespace thimble
