#include "keeper/peer_service.h"

#include <spdlog/spdlog.h>

#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "keeper/keeper_messages.h"
#include "keeper/rebuild.h"

namespace thimble {
namespace {

using Json = nlohmann::json;

SnapshotMoment moment_of(const Json& json) {
  return {json.at("step"), json.at("start")};
}

// A payload that another keeper asks for is no longer than what it is sent in.
std::vector<std::byte> room_for(const Json& json) {
  const auto bytes = json.at("bytes").get<std::int64_t>();
  if (bytes < 0 || bytes > kSnapshotPieceBytes * 2) throw_system("it asks for {} bytes", bytes);
  return std::vector<std::byte>(narrow<std::size_t>(bytes));
}

}  // namespace

std::vector<SnapshotPart> parts_elsewhere(const KeeperWorld& world, const SnapshotMoment& moment) {
  std::vector<SnapshotPart> parts;
  for (int node = 0; node < narrow<int>(world.nodes.size()); ++node) {
    if (node == world.me) continue;
    const auto peer =
        std::make_shared<PeerClient>(world.nodes[narrow<std::size_t>(node)].address, world.secret);
    for (SnapshotPart& part : PeerClient::parts(peer, moment)) parts.push_back(std::move(part));
  }
  return parts;
}

void PeerService::join(KeeperWorld world) {
  meet(world.secret);
  sender_.reset();
  encoded_.clear();
  sent_ = {-1, 0};
  current_ = world.start;
  Start& start = starts_[world.start];
  const auto group = world.group_of(world.me);
  if (group && !start.parity) start.parity = std::make_unique<ParityStore>(world, *group);
  if (group) sender_ = std::make_unique<PeerSender>(world, *group);
  start.world = std::move(world);
}

std::vector<std::string> PeerService::worlds() const {
  std::vector<std::string> texts;
  for (const auto& [number, start] : starts_) texts.push_back(world_text(start.world));
  return texts;
}

const KeeperWorld* PeerService::world(std::uint64_t start) const {
  const auto found = starts_.find(start);
  return found == starts_.end() ? nullptr : &found->second.world;
}

void PeerService::drop_older(std::uint64_t start) {
  std::erase_if(starts_, [&](const auto& s) { return s.first != start; });
}

void PeerService::forget() {
  sender_.reset();
  starts_.clear();
  encoded_.clear();
}

ParityStore* PeerService::parity_of(const SnapshotMoment& moment) {
  const auto found = starts_.find(moment.start);
  return found == starts_.end() ? nullptr : found->second.parity.get();
}

// What has no parity here is read all the same, so that the next message is found.
void PeerService::take_block(ChannelMessage& message, Channel& channel) {
  const Json json = Json::parse(message.text);
  if (message.payload_bytes > StripeLayout::kMaxPieceBytes)
    throw_system("a block of {} bytes", message.payload_bytes);
  std::vector<std::byte> block(narrow<std::size_t>(message.payload_bytes));
  channel.receive_payload(block);
  if (ParityStore* parity = parity_of(moment_of(json)))
    parity->add(moment_of(json), json.at("node"), json.at("stripe"), block);
}

// Once all others of the group have said so, what is here of the moment survives this node.
void PeerService::note_encoded(const SnapshotMoment& moment, int node) {
  const ParityStore* parity = parity_of(moment);
  if (parity == nullptr || moment.start != current_) return;
  std::set<int>& who = encoded_[moment.step];
  who.insert(node);
  if (narrow<int>(who.size()) < parity->group().shape.num_nodes()) return;
  NodeShard(kept_.here(moment)).advance(SnapshotState::kEncoded);
  encoded_.erase(encoded_.begin(), encoded_.upper_bound(moment.step));
}

void PeerService::give_parts(Channel& channel, const SnapshotMoment& moment) const {
  const std::vector<SealedSnapshot> all = snapshots_of(kept_.here(moment));
  channel.send(Json{{"parts", all.size()}}.dump());
  for (const SealedSnapshot& snapshot : all)
    channel.send(snapshot_text(snapshot.text), std::as_bytes(std::span(snapshot.pieces)));
}

void PeerService::answer(Channel& channel, ChannelMessage& message) {
  const Json json = Json::parse(message.text);
  const std::string what = json.contains("say") ? json.at("say") : json.at("ask");
  if (what == kSayBlock) return take_block(message, channel);
  if (message.payload_bytes != 0) throw_system("'{}' with bytes", what);
  const SnapshotMoment moment = moment_of(json);
  if (what == kSayDone) {
    ParityStore* parity = parity_of(moment);
    if (parity != nullptr && parity->note_done(moment, json.at("node"))) {
      if (sender_) sender_->say_encoded(moment);
      note_encoded(moment, parity->me());
    }
  } else if (what == kSayEncoded) {
    note_encoded(moment, json.at("node"));
  } else if (what == kAskParts) {
    give_parts(channel, moment);
  } else if (what == kAskParity) {
    const ParityStore* parity = parity_of(moment);
    const auto block = parity == nullptr ? std::nullopt : parity->block(moment, json.at("stripe"));
    channel.send("{}", block.value_or(std::span<const std::byte>()));
  } else if (what == kAskShard || what == kAskData) {
    std::vector<std::byte> bytes = room_for(json);
    const auto offset = json.at("offset").get<std::int64_t>();
    const NodeShard shard(kept_.here(moment));
    if (what == kAskShard) {
      if (shard.bytes() >= offset + narrow<std::int64_t>(bytes.size())) shard.read(offset, bytes);
    } else {
      for (const SealedSnapshot& found : snapshots_of(shard.place())) {
        if (found.text.rank == json.at("rank")) part_of(found).read(offset, bytes);
      }
    }
    channel.send("{}", shard.is_intact() && shard.bytes() > 0 ? std::span<const std::byte>(bytes)
                                                              : std::span<const std::byte>());
  } else {
    throw_system("it asks for '{}'", what);
  }
}

bool PeerService::look() {
  if (!sender_) return false;
  const std::uint64_t now = kept_.signature();
  if (now == seen_) return true;
  seen_ = now;
  const Start& start = starts_.at(current_);
  const KeeperNode& me = start.world.nodes[narrow<std::size_t>(start.world.me)];
  std::vector<std::string> damaged;
  for (const KeptRanks::Whole& found : kept_.whole(damaged)) {
    if (found.moment.start != current_ || found.moment.step <= sent_.step) continue;
    MomentPlace here = kept_.here(found.moment);
    if (here.slots.size() < me.ranks.size()) continue;
    sent_ = found.moment;
    sender_->send_shard(NodeShard(std::move(here)));
    break;
  }
  return true;
}

void PeerService::rebuild_here(const KeeperWorld& of, const SnapshotMoment& moment, int node,
                               const std::vector<std::string>& addresses) {
  std::map<int, std::shared_ptr<PeerClient>> peers;
  std::vector<int> lost;
  for (std::size_t n = 0; n < addresses.size(); ++n) {
    if (addresses[n].empty()) lost.push_back(narrow<int>(n));
  }
  const auto peer = [&](int n) {
    auto& found = peers[n];
    if (!found) found = std::make_shared<PeerClient>(addresses.at(narrow<std::size_t>(n)), secret_);
    return found;
  };
  for (auto& [rank, memory] : rebuild({of, moment, node, lost}, peer)) {
    kept_.keep(rank, std::move(memory));
    kept_.make_older();
    spdlog::info("rank {}: its snapshot of step {} is rebuilt", rank, moment.step);
  }
}

}  // namespace thimble
