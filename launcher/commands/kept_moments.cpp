#include "launcher/commands/kept_moments.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "parallel/collectives.h"

namespace thimble {
namespace {

using Json = nlohmann::ordered_json;

}  // namespace

KeptMoments::KeptMoments(Communicator& comm, NearKeeper& near, std::string secret)
    : comm_(comm), near_(near), secret_(std::move(secret)) {
  ask_keeper([&](KeeperClient& client) { client.meet(secret_); });
  ask();
}

// One that dies while it is asked had nothing.
template <typename Question>
void KeptMoments::ask_keeper(Question&& question) {
  if (!near_.client) return;
  try {
    question(*near_.client);
  } catch (const SystemError& e) {
    spdlog::warn("the keeper of this run cannot be asked: {}", e.what());
    near_.client.reset();
  }
}

// What is near this rank, told to all.
void KeptMoments::ask() {
  here_.clear();
  KeptMemory memory;
  ask_keeper([&](KeeperClient& client) { memory = client.look(); });
  Json mine{{"node", near_.options.node},
            {"address", near_.client ? near_.client->address() : ""},
            {"kept", Json::array()},
            {"worlds", Json::array()}};
  if (near_.client) {
    saving_step_ = memory.saving_step;
    for (auto& [rank, file] : memory.ranks) {
      here_.keep(rank, std::move(file));
      here_.make_older();  // one rank may be there twice
    }
    std::vector<std::string> damaged;
    for (const KeptRanks::Whole& w : here_.whole(damaged))
      mine["kept"].push_back({w.moment.step, w.moment.start, w.rank, w.ranks});
    for (const std::string& why : damaged) spdlog::warn("{}", why);
    for (const KeeperWorld& world : memory.worlds) mine["worlds"].push_back(world_text(world));
  }
  places_.clear();
  found_.clear();
  worlds_.clear();
  for (const std::string& text : all_gather_texts(comm_, "snapshots", mine.dump())) {
    const Json json = Json::parse(text);
    const int at = narrow<int>(places_.size());
    places_.push_back({json.at("node"), json.at("address")});
    for (const Json& k : json.at("kept"))
      found_.push_back({{k.at(0), k.at(1)}, k.at(2), k.at(3), at});
    for (const std::string world : json.at("worlds")) worlds_.push_back(parse_world(world));
  }
}

bool KeptMoments::any() const {
  return !found_.empty();
}

const KeeperWorld* KeptMoments::world(std::uint64_t start) const {
  const auto found = std::find_if(worlds_.begin(), worlds_.end(),
                                  [&](const KeeperWorld& w) { return w.start == start; });
  return found == worlds_.end() ? nullptr : &*found;
}

// Ranks of the moment's start whose part is nowhere.
std::vector<int> KeptMoments::missing(const SnapshotMoment& moment) const {
  std::vector<int> ranks;
  std::vector<bool> has;
  for (const Found& f : found_) {
    if (f.moment != moment) continue;
    has.resize(static_cast<std::size_t>(f.ranks));
    has[static_cast<std::size_t>(f.rank)] = true;
  }
  for (std::size_t r = 0; r < has.size(); ++r) {
    if (!has[r]) ranks.push_back(narrow<int>(r));
  }
  return ranks;
}

std::vector<int> KeptMoments::lost_nodes(const KeeperWorld& of,
                                         const SnapshotMoment& moment) const {
  std::vector<int> lost;
  for (const int rank : missing(moment)) {
    const int node = of.node_of(rank);
    if (std::find(lost.begin(), lost.end(), node) == lost.end()) lost.push_back(node);
  }
  std::sort(lost.begin(), lost.end());
  return lost;
}

bool KeptMoments::can_rebuild(const SnapshotMoment& moment) const {
  const KeeperWorld* of = world(moment.start);
  if (of == nullptr) return false;
  const std::vector<int> lost = lost_nodes(*of, moment);
  return std::all_of(lost.begin(), lost.end(), [&](int node) {
    const auto group = of->group_of(node);
    if (!group) return false;
    const auto count = std::count_if(lost.begin(), lost.end(), [&](int other) {
      return other >= group->first_node && other < group->first_node + group->shape.num_nodes();
    });
    return count <= group->shape.parity;
  });
}

std::optional<SnapshotMoment> KeptMoments::newest() const {
  std::optional<SnapshotMoment> newest;
  for (const Found& f : found_) {
    if (newest && f.moment.step <= newest->step) continue;
    if (std::find(passed_over_.begin(), passed_over_.end(), f.moment) != passed_over_.end())
      continue;
    if (missing(f.moment).empty() || can_rebuild(f.moment)) newest = f.moment;
  }
  return newest;
}

// Each rank of a node checks some of what lies there; what is damaged counts as lost.
std::string KeptMoments::check_here(const SnapshotMoment& moment) {
  int ranks_near = 0, number = 0;
  for (int r = 0; r < comm_.size(); ++r) {
    if (places_[static_cast<std::size_t>(r)].node != near_.options.node) continue;
    if (r < comm_.rank()) ++number;
    ++ranks_near;
  }
  std::string told;
  const MomentPlace place = here_.here(moment);
  for (std::size_t i = 0; i < place.slots.size(); ++i) {
    if (narrow<int>(i) % ranks_near != number) continue;
    const auto& [kept, slot] = place.slots[i];
    try {
      const auto sealed = kept->snapshots.sealed(slot);
      if (sealed) sealed->verify();
    } catch (const SystemError& e) {
      SnapshotMemory(kept->snapshots).clear(slot);
      told = e.what();
      spdlog::warn("{}", told);
    }
  }
  return first_reason(comm_, "snapshots", told);
}

bool KeptMoments::is_first_of_node(int rank) const {
  const auto first = std::find_if(places_.begin(), places_.end(), [&](const Place& p) {
    return p.node == places_[static_cast<std::size_t>(rank)].node;
  });
  return first - places_.begin() == rank;
}

// The rank of this start whose keeper takes the place of a lost node: the node of that name, else
// one that had no part in that start, else the first.
int KeptMoments::rebuilder_of(const KeeperWorld& of, int node) const {
  std::optional<int> stranger;
  for (int r = 0; r < comm_.size(); ++r) {
    const std::string& name = places_[static_cast<std::size_t>(r)].node;
    if (!is_first_of_node(r)) continue;
    if (name == of.nodes[static_cast<std::size_t>(node)].name) return r;
    const bool knew = std::any_of(of.nodes.begin(), of.nodes.end(),
                                  [&](const KeeperNode& n) { return n.name == name; });
    if (!knew && !stranger) stranger = r;
  }
  return stranger.value_or(0);
}

std::string KeptMoments::rebuild(const SnapshotMoment& moment) {
  const KeeperWorld of = *world(moment.start);
  const std::vector<int> lost = lost_nodes(of, moment);
  std::vector<std::string> addresses, names;
  for (int n = 0; n < narrow<int>(of.nodes.size()); ++n) {
    const std::string& name = of.nodes[static_cast<std::size_t>(n)].name;
    const auto place = std::find_if(places_.begin(), places_.end(),
                                    [&](const Place& p) { return p.node == name; });
    const bool is_lost = std::find(lost.begin(), lost.end(), n) != lost.end();
    if (is_lost) names.push_back(name);
    addresses.push_back(is_lost || place == places_.end() ? "" : place->address);
  }
  if (comm_.rank() == 0)
    spdlog::info("rebuilding the memory of {} at step {}", join(names), moment.step);
  std::string failure;
  for (const int node : lost) {
    if (rebuilder_of(of, node) != comm_.rank()) continue;
    try {
      if (!near_.client) throw_system("its new node has no keeper");
      near_.client->rebuild(of, moment, node, addresses);
    } catch (const SystemError& e) {
      failure = fmt::format("{}: {}", of.nodes[static_cast<std::size_t>(node)].name, e.what());
    }
  }
  failure = first_reason(comm_, "rebuilding", failure);
  if (failure.empty()) ask();
  return failure;
}

std::string KeptMoments::make_whole(const SnapshotMoment& moment) {
  if (const std::string damage = check_here(moment); !damage.empty()) ask();
  if (missing(moment).empty()) return "";
  if (!can_rebuild(moment)) return "more of it is lost than other nodes make up for";
  if (std::string failure = rebuild(moment); !failure.empty()) return failure;
  if (std::string damage = check_here(moment); !damage.empty()) return damage;
  return missing(moment).empty() ? "" : "it could not be rebuilt";
}

std::vector<SnapshotPart> KeptMoments::parts(const SnapshotMoment& moment) {
  std::vector<SnapshotPart> parts;
  std::vector<bool> has;
  for (const Found& f : found_) {
    if (f.moment == moment) has.resize(static_cast<std::size_t>(f.ranks));
  }
  const auto add = [&](SnapshotPart part) {
    const auto rank = static_cast<std::size_t>(part.text.rank);
    if (!has.at(rank)) parts.push_back(std::move(part));
    has[rank] = true;
  };
  for (const SealedSnapshot& snapshot : snapshots_of(here_.here(moment))) add(part_of(snapshot));
  for (const Found& f : found_) {
    if (f.moment != moment || has[static_cast<std::size_t>(f.rank)]) continue;
    const auto peer =
        std::make_shared<PeerClient>(places_[static_cast<std::size_t>(f.at)].address, secret_);
    for (SnapshotPart& part : PeerClient::parts(peer, moment)) add(std::move(part));
  }
  return parts;
}

}  // namespace thimble
