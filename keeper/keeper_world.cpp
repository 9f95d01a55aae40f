#include "keeper/keeper_world.h"

#include <nlohmann/json.hpp>

#include "checkpoint/snapshot_memory.h"
#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {

using Json = nlohmann::json;

std::int64_t KeeperNode::shard_bytes() const {
  std::int64_t bytes = 0;
  for (const NodeRank& rank : ranks) bytes += SnapshotMemory::image_bytes(rank.room);
  return bytes;
}

int KeeperWorld::ranks() const {
  std::size_t all = 0;
  for (const KeeperNode& node : nodes) all += node.ranks.size();
  return narrow<int>(all);
}

int KeeperWorld::node_of(int rank) const {
  for (std::size_t n = 0; n < nodes.size(); ++n) {
    for (const NodeRank& r : nodes[n].ranks) {
      if (r.rank == rank) return narrow<int>(n);
    }
  }
  throw_system("rank {} is on no node", rank);
}

std::vector<CodeGroup> KeeperWorld::groups() const {
  return code_groups(erasure, narrow<int>(nodes.size()), "checkpoint.erasure");
}

std::optional<CodeGroup> KeeperWorld::group_of(int node) const {
  const std::vector<CodeGroup> all = groups();
  const CodeGroup* found = find_group(all, node);
  return found == nullptr ? std::nullopt : std::optional(*found);
}

StripeLayout KeeperWorld::layout(const CodeGroup& group) const {
  std::vector<std::int64_t> bytes;
  for (int n = 0; n < group.shape.num_nodes(); ++n)
    bytes.push_back(nodes[static_cast<std::size_t>(group.first_node + n)].shard_bytes());
  return {group.shape, std::move(bytes)};
}

std::string world_text(const KeeperWorld& world) {
  Json nodes = Json::array();
  for (const KeeperNode& node : world.nodes) {
    Json ranks = Json::array();
    for (const NodeRank& r : node.ranks)
      ranks.push_back({r.rank, r.room.text_bytes, r.room.pieces, r.room.data_bytes});
    nodes.push_back({{"name", node.name}, {"address", node.address}, {"ranks", ranks}});
  }
  return Json{{"start", world.start},
              {"secret", world.secret},
              {"erasure", world.erasure},
              {"me", world.me},
              {"nodes", nodes}}
      .dump();
}

KeeperWorld parse_world(const std::string& text) {
  try {
    const Json json = Json::parse(text);
    KeeperWorld world{.start = json.at("start"),
                      .secret = json.at("secret"),
                      .erasure = json.at("erasure"),
                      .me = json.at("me"),
                      .nodes = {}};
    for (const Json& n : json.at("nodes")) {
      KeeperNode node{.name = n.at("name"), .address = n.at("address"), .ranks = {}};
      for (const Json& r : n.at("ranks")) {
        const SnapshotRoom room{r.at(1), r.at(2), r.at(3)};
        if (room.text_bytes < 0 || room.pieces < 0 || room.data_bytes < 0)
          throw_system("rank {} has no such room", r.at(0).get<int>());
        node.ranks.push_back({r.at(0), room});
      }
      world.nodes.push_back(std::move(node));
    }
    if (world.me < 0 || world.me >= narrow<int>(world.nodes.size()))
      throw_system("of {} nodes there is no number {}", world.nodes.size(), world.me);
    static_cast<void>(world.groups());  // throws if there are none such
    return world;
  } catch (const nlohmann::json::exception& e) {
    throw_system("what came is no world of keepers: {}", e.what());
  } catch (const UserError& e) {
    throw_system("what came is no world of keepers: {}", e.what());
  }
}

}  // namespace thimble
