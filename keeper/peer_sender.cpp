#include "keeper/peer_sender.h"

#include <spdlog/spdlog.h>

#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/numeric.h"
#include "keeper/keeper_messages.h"

namespace thimble {
namespace {

using Json = nlohmann::json;

constexpr double kLimitS = 30;  // for another keeper to take what is sent

Json saying(std::string_view what, const SnapshotMoment& moment, int node) {
  return {{"say", what}, {"step", moment.step}, {"start", moment.start}, {"node", node}};
}

}  // namespace

PeerSender::PeerSender(KeeperWorld world, const CodeGroup& group)
    : world_(std::move(world)),
      group_(group),
      layout_(world_.layout(group)),
      thread_([this] { run(); }) {}

PeerSender::~PeerSender() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

bool PeerSender::is_ending() const {
  const std::lock_guard lock(mutex_);
  return ends_;
}

void PeerSender::send_shard(NodeShard shard) {
  const std::lock_guard lock(mutex_);
  next_.emplace(std::move(shard));
  changed_.notify_all();
}

void PeerSender::say_encoded(const SnapshotMoment& moment) {
  const std::lock_guard lock(mutex_);
  encoded_ = moment;
  changed_.notify_all();
}

void PeerSender::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ends_ || next_ || encoded_; });
    if (ends_) return;
    const auto encoded = std::exchange(encoded_, std::nullopt);
    std::optional<NodeShard> shard;
    if (!encoded && next_) shard.emplace(std::move(*next_));
    if (!encoded) next_.reset();
    lock.unlock();
    try {
      if (encoded) say_to_all(kSayEncoded, *encoded);
      if (shard) send_blocks(*shard);
    } catch (const std::exception& e) {
      channels_.clear();
      spdlog::warn("what protects this node's memory did not reach another one: {}", e.what());
    }
    lock.lock();
  }
}

void PeerSender::say(int node, const std::string& text, std::span<const std::byte> block) {
  auto found = channels_.find(node);
  if (found == channels_.end()) {
    const KeeperNode& to = world_.nodes[narrow<std::size_t>(group_.first_node + node)];
    Channel channel = Channel::connect_tcp(to.address, kLimitS);
    channel.set_time_limit(kLimitS);
    channel.send(Json{{"peer", world_.secret}, {"version", kKeeperVersion}}.dump());
    found = channels_.emplace(node, std::move(channel)).first;
  }
  found->second.send(text, block);
}

void PeerSender::say_to_all(std::string_view what, const SnapshotMoment& moment) {
  const int me = world_.me - group_.first_node;
  for (int node = 0; node < group_.shape.num_nodes(); ++node) {
    if (node != me) say(node, saying(what, moment, me).dump());
  }
}

void PeerSender::send_blocks(const NodeShard& shard) {
  const int me = world_.me - group_.first_node;
  std::vector<std::byte> block;
  for (std::int64_t i = 0; i < layout_.num_stripes() && !is_ending(); ++i) {
    const Stripe stripe = layout_.stripe(i);
    const int own = stripe.block_of(me);
    if (own >= group_.shape.data) continue;
    const StripeMember& member = stripe.members[narrow<std::size_t>(own)];
    if (member.bytes == 0) continue;
    block.resize(narrow<std::size_t>(member.bytes));
    shard.read(member.offset, block);
    if (!shard.is_intact()) return;  // there is a newer one
    Json text = saying(kSayBlock, shard.moment(), me);
    text["stripe"] = i;
    for (int row = 0; row < group_.shape.parity; ++row) {
      failpoint("keeper.send");
      say(stripe.members[narrow<std::size_t>(group_.shape.data + row)].node, text.dump(), block);
    }
  }
  if (!is_ending()) say_to_all(kSayDone, shard.moment());
}

}  // namespace thimble
