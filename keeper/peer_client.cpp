#include "keeper/peer_client.h"

#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "keeper/keeper_messages.h"

namespace thimble {
namespace {

using Json = nlohmann::json;

constexpr double kConnectLimitS = 10;

Json about(std::string_view what, const SnapshotMoment& moment) {
  return {{"ask", what}, {"step", moment.step}, {"start", moment.start}};
}

}  // namespace

PeerClient::PeerClient(const std::string& address, const std::string& secret)
    : channel_(Channel::connect_tcp(address, kConnectLimitS)) {
  channel_.set_time_limit(kKeeperLimitS);
  channel_.send(Json{{"peer", secret}, {"version", kKeeperVersion}}.dump());
}

ChannelMessage PeerClient::ask(const std::string& text) {
  channel_.send(text);
  std::optional<ChannelMessage> answer = channel_.receive();
  if (!answer) throw_system("the keeper of another node has ended, or is of another run");
  return std::move(*answer);
}

bool PeerClient::ask_for_bytes(const std::string& text, std::span<std::byte> to) {
  const std::lock_guard lock(mutex_);
  const ChannelMessage answer = ask(text);
  if (answer.payload_bytes == 0 && !to.empty()) return false;
  if (answer.payload_bytes != narrow<std::int64_t>(to.size()))
    throw_system("the keeper of another node has {} bytes where there should be {}",
                 answer.payload_bytes, to.size());
  channel_.receive_payload(to);
  return true;
}

bool PeerClient::read_shard(const SnapshotMoment& moment, std::int64_t offset,
                            std::span<std::byte> to) {
  Json asked = about(kAskShard, moment);
  asked["offset"] = offset;
  asked["bytes"] = to.size();
  return ask_for_bytes(asked.dump(), to);
}

bool PeerClient::read_parity(const SnapshotMoment& moment, std::int64_t stripe,
                             std::span<std::byte> to) {
  Json asked = about(kAskParity, moment);
  asked["stripe"] = stripe;
  return ask_for_bytes(asked.dump(), to);
}

void PeerClient::read(const SnapshotMoment& moment, int rank, std::int64_t offset,
                      std::span<std::byte> to) {
  while (!to.empty()) {
    const auto part = to.first(std::min(to.size(), narrow<std::size_t>(kSnapshotPieceBytes)));
    Json asked = about(kAskData, moment);
    asked["rank"] = rank;
    asked["offset"] = offset;
    asked["bytes"] = part.size();
    if (!ask_for_bytes(asked.dump(), part))
      throw_system("the snapshot of step {} of rank {} is no longer on its node", moment.step,
                   rank);
    offset += narrow<std::int64_t>(part.size());
    to = to.subspan(part.size());
  }
}

std::vector<SnapshotPart> PeerClient::parts(const std::shared_ptr<PeerClient>& peer,
                                            const SnapshotMoment& moment) {
  const std::lock_guard lock(peer->mutex_);
  const Json all = Json::parse(peer->ask(about(kAskParts, moment).dump()).text);
  std::vector<SnapshotPart> found;
  for (std::int64_t i = 0; i < all.at("parts").get<std::int64_t>(); ++i) {
    std::optional<ChannelMessage> text = peer->channel_.receive();
    if (!text) throw_system("the keeper of another node has ended");
    SnapshotPart part{.text = parse_snapshot_text(text->text)};
    if (text->payload_bytes % narrow<std::int64_t>(sizeof(SnapshotPiece)) != 0 ||
        text->payload_bytes > part.text.data_bytes * narrow<std::int64_t>(sizeof(SnapshotPiece)))
      throw_system("the keeper of another node sends no snapshot");
    part.pieces.resize(narrow<std::size_t>(text->payload_bytes) / sizeof(SnapshotPiece));
    peer->channel_.receive_payload(std::as_writable_bytes(std::span(part.pieces)));
    part.read = [peer, moment, rank = part.text.rank](std::int64_t offset,
                                                      std::span<std::byte> to) {
      peer->read(moment, rank, offset, to);
    };
    found.push_back(std::move(part));
  }
  return found;
}

}  // namespace thimble
