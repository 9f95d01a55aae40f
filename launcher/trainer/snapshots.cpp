#include "launcher/trainer/snapshots.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/base/error.h"
#include "parallel/collectives.h"

namespace thimble {
namespace {

using Json = nlohmann::ordered_json;

constexpr auto kLookInterval = std::chrono::milliseconds(5);
constexpr auto kAskInterval = std::chrono::milliseconds(500);
constexpr const char* kSaved = "saved";
constexpr const char* kSomehow = "ended";                // how, only an earlier start was told
constexpr auto kLongestWait = std::chrono::seconds(30);  // for other nodes, where a save is due
constexpr int kTries = 3;
constexpr std::byte kNotReady{0}, kReady{1}, kRemade{2};

bool has_room(const SnapshotMemory& memory, const SnapshotRoom& room) {
  return memory.room().text_bytes == room.text_bytes && memory.room().pieces == room.pieces &&
         memory.room().data_bytes == room.data_bytes;
}

// The memory of an earlier start is filled on, so that what the run was recovered from stays there
// until there is something newer.
MemoryFile memory_for(std::optional<MemoryFile>& kept, const Reservation& place,
                      const SnapshotRoom& room, int rank) {
  if (kept && kept->bytes() == place.size_bytes()) {
    const MappedMemory mapped(*kept);
    if (has_room(SnapshotMemory::open(mapped.bytes()), room)) return std::move(*kept);
  }
  MemoryFile made =
      MemoryFile::create(fmt::format("thimble-snapshots-{}", rank), place.size_bytes());
  const MappedMemory mapped(made);
  SnapshotMemory::make(mapped.bytes(), room);
  return made;
}

SnapshotMoment moment_in(const SnapshotMemory& memory, int slot) {
  const auto sealed = memory.sealed(slot);
  return sealed ? SnapshotMoment{sealed->text.step, sealed->text.start} : SnapshotMoment{};
}

// Loopback, unless it was asked for: but then nodes do not reach each other.
void require_reachable(const KeeperWorld& world, const KeeperOptions& own) {
  if (world.nodes.size() == 1 || own.is_simulated) return;
  for (const KeeperNode& node : world.nodes) {
    if (!node.address.starts_with("127.")) continue;
    throw_user(
        "checkpoint.memory_steps on {} nodes: {} is reached at {} only; set THIMBLE_NODE_ADDRESS "
        "to "
        "the network interface that nodes share, such as eth0, or to the node's address",
        world.nodes.size(), node.name, node.address);
  }
}

}  // namespace

Snapshots::Snapshots(Parts parts)
    : parts_(std::move(parts)),
      memory_(memory_for(parts_.kept, parts_.room,
                         snapshot_room(parts_.engine.table(), parts_.engine.rank()),
                         parts_.engine.rank())),
      mapped_(memory_, parts_.room.data()),
      snapshots_(SnapshotMemory::open(mapped_.bytes())) {
  for (int slot = 0; slot < SnapshotMemory::kSlots; ++slot) {
    in_slot_[static_cast<std::size_t>(slot)] = moment_in(snapshots_, slot);
    if (parts_.recovered && in_slot_[static_cast<std::size_t>(slot)] == *parts_.recovered)
      next_slot_ = 1 - slot;
  }
  if (parts_.saving_step >= 0) saving_ = SnapshotMoment{parts_.saving_step, 0};
  connect();
  announce_world();
  parts_.engine.set_state_watcher(&copy_);
}

Snapshots::~Snapshots() {
  parts_.engine.set_state_watcher(nullptr);
}

void Snapshots::connect() {
  for (int tries = 1;; ++tries) {
    try {
      if (parts_.client && parts_.client->is_alive()) {
        keeper_ = std::move(parts_.client);
      } else {
        keeper_.emplace(KeeperClient::find_or_start(parts_.keeper, parts_.engine.rank()));
      }
      parts_.client.reset();
      return keeper_->keep(parts_.engine.rank(), parts_.start, memory_);
    } catch (const SystemError&) {  // it may be killed just then
      parts_.client.reset();
      if (tries == kTries) throw;
    }
  }
}

// What a keeper that dies does not hear, the next one is told.
template <typename Word>
bool Snapshots::tell(Word&& word) {
  try {
    word(*keeper_);
    return true;
  } catch (const SystemError& e) {
    spdlog::warn("the keeper: {}", e.what());
    return false;
  }
}

// Tells the nodes' keepers of each other.
void Snapshots::announce_world() {
  Communicator& comm = parts_.engine.comm();
  const SnapshotRoom& room = snapshots_.room();
  const Json mine{parts_.keeper.node, keeper_->address(), room.text_bytes, room.pieces,
                  room.data_bytes};
  KeeperWorld world{
      .start = parts_.start, .secret = parts_.secret, .erasure = parts_.erasure, .nodes = {}};
  const std::vector<std::string> texts = all_gather_texts(comm, "the keepers", mine.dump());
  int rank = 0;
  for (const std::string& text : texts) {
    const Json json = Json::parse(text);
    auto node = std::find_if(world.nodes.begin(), world.nodes.end(),
                             [&](const KeeperNode& n) { return n.name == json.at(0); });
    if (node == world.nodes.end())
      node = world.nodes.insert(node, {.name = json.at(0), .address = json.at(1), .ranks = {}});
    node->ranks.push_back({rank++, {json.at(2), json.at(3), json.at(4)}});
  }
  require_reachable(world, parts_.keeper);
  world.me = world.node_of(comm.rank());
  in_group_ = world.group_of(world.me).has_value();
  const auto& here = world.nodes[static_cast<std::size_t>(world.me)];
  if (world.nodes.size() > 1 && here.ranks.front().rank == comm.rank())
    tell([&](KeeperClient& keeper) { keeper.join(world); });
  barrier(comm, "the keepers");
}

// The newest snapshot outlives this node, so that the one before it may go.
bool Snapshots::is_protected(bool wait) const {
  const int newest = 1 - next_slot_;
  if (!in_group_ || in_slot_[static_cast<std::size_t>(newest)].start != parts_.start) return true;
  const auto end = std::chrono::steady_clock::now() + kLongestWait;
  while (snapshots_.state(newest) < SnapshotState::kEncoded) {
    if (!wait || std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(kLookInterval);
  }
  return true;
}

// A keeper that was killed is made anew: the memory is still ours.
std::byte Snapshots::look_at_keeper(const RunState& run) {
  if (const std::string failure = copy_.failure(); !failure.empty())
    spdlog::warn("step {}: the snapshot before failed: {}", run.train.step, failure);
  if (keeper_ && keeper_->is_alive()) return kReady;
  try {
    spdlog::warn("step {}: the keeper is gone; another one is started", run.train.step);
    connect();
    keeper_->meet(parts_.secret);
    if (run.leads() && saving_ && saving_->start == parts_.start) keeper_->save(*saving_);
    return kRemade;
  } catch (const SystemError& e) {
    spdlog::warn("step {}: {}", run.train.step, e.what());
    return kNotReady;
  }
}

// On rank 0, which hears of it, unless an earlier start had asked.
std::optional<SaveOutcome> Snapshots::hear_of_save() {
  try {
    if (auto outcome = keeper_->take_outcome()) return outcome;
    const auto now = std::chrono::steady_clock::now();
    if (now - asked_ < kAskInterval) return std::nullopt;
    asked_ = now;
    if (keeper_->saving_step() >= 0) return std::nullopt;
    if (auto outcome = keeper_->take_outcome()) return outcome;
    return SaveOutcome{.failure = kSomehow};
  } catch (const SystemError&) {
    return SaveOutcome{.failure = "the keeper is gone"};
  }
}

// The leader's outcome, on all ranks.
std::optional<SaveOutcome> Snapshots::agree_on(const RunState& run,
                                               std::optional<SaveOutcome> outcome) {
  std::string text;
  if (outcome) text = outcome->failure.empty() ? kSaved : outcome->failure;
  text = all_gather_texts(run.comm(), "the save", text)[0];
  if (text.empty()) return std::nullopt;
  const SnapshotMoment moment = *std::exchange(saving_, std::nullopt);
  if (text == kSomehow) return std::nullopt;
  SaveOutcome agreed = outcome.value_or(SaveOutcome{});
  agreed.moment = moment;
  agreed.failure = text == kSaved ? "" : text;
  return agreed;
}

std::optional<SaveOutcome> Snapshots::ended_save(const RunState& run) {
  if (!saving_) return std::nullopt;
  return agree_on(run, run.leads() ? hear_of_save() : std::nullopt);
}

std::optional<SaveOutcome> Snapshots::wait_for_save(const RunState& run) {
  if (!saving_) return std::nullopt;
  copy_.finish();
  std::optional<SaveOutcome> outcome;
  if (const std::string why = first_reason(run.comm(), "snapshot", copy_.failure()); !why.empty())
    outcome = SaveOutcome{.failure = why};
  while (run.leads() && !outcome) {
    outcome = hear_of_save();
    if (!outcome) std::this_thread::sleep_for(kLookInterval);
  }
  return agree_on(run, std::move(outcome));
}

bool Snapshots::take(const RunState& run, bool save) {
  copy_.finish();  // of what no update has waited for
  Communicator& comm = run.comm();
  const bool was_whole = taken_ == 0 || copy_.failure().empty();
  std::byte mine = look_at_keeper(run);
  if (mine == kReady && !is_protected(save)) mine = kNotReady;
  // Nobody overwrites an older snapshot before all have the newer one.
  const auto all = all_gather_control(comm, "snapshot", std::span(&mine, 1));
  const auto any = [&all](std::byte which) {
    return std::find(all.begin(), all.end(), which) != all.end();
  };
  const bool held = saving_ && saving_->step == in_slot_[static_cast<std::size_t>(next_slot_)].step;
  if (held || any(kNotReady)) {
    ++skipped_;
    return false;
  }
  if (any(kRemade)) announce_world();
  if (older_ && taken_ > 0 && was_whole) {
    older_ = !tell([](KeeperClient& keeper) { keeper.drop_older(); });
  }
  const SnapshotMoment moment{run.train.step, parts_.start};
  std::string failure;
  try {
    copy_.begin(parts_.engine.table(), parts_.engine.state(), snapshots_, next_slot_,
                {.step = moment.step,
                 .start = moment.start,
                 .rank = comm.rank(),
                 .ranks = comm.size(),
                 .metadata = checkpoint_metadata(run.train, parts_.identity)});
  } catch (const SystemError& e) {
    failure = e.what();
  }
  failure = first_reason(comm, "snapshot", failure);
  if (!failure.empty()) {
    if (run.leads()) spdlog::warn("step {}: no snapshot: {}", run.train.step, failure);
    ++skipped_;
    return false;
  }
  if (save && run.leads()) tell([&](KeeperClient& keeper) { keeper.save(moment); });
  in_slot_[static_cast<std::size_t>(next_slot_)] = moment;
  next_slot_ = 1 - next_slot_;
  ++taken_;
  if (save) saving_ = moment;
  return true;
}

void Snapshots::finish() {
  try {
    keeper_->finish();
  } catch (const SystemError&) {
    // Another rank's word was enough.
  }
}

std::string snapshots_text(const Snapshots& snapshots) {
  const auto taken = static_cast<double>(std::max<std::int64_t>(1, snapshots.taken()));
  return fmt::format(
      "{} snapshots, {} skipped; training waited {:.2f} ms for each; copying took {:.3f} s for "
      "each, "
      "beside it",
      snapshots.taken(), snapshots.skipped(), 1e3 * snapshots.copy().blocked_s() / taken,
      snapshots.copy().copying_s() / taken);
}

}  // namespace thimble
