#include "launcher/commands/recover_snapshots.h"

#include <spdlog/spdlog.h>

#include <cstdlib>
#include <cstring>
#include <random>

#include "launcher/commands/choose_checkpoint.h"
#include "launcher/run/machine.h"
#include "parallel/collectives.h"

namespace thimble {
namespace {

std::optional<KeeperClient> find_keeper(const Prepared& p, int rank) {
  try {
    return KeeperClient::find(keeper_of(p), rank);
  } catch (const std::runtime_error& e) {
    spdlog::warn("the keeper of this run cannot be asked: {}", e.what());
    return std::nullopt;
  }
}

// The ranks' newest moments are the same unless one is damaged: then the oldest of them, if all
// have it.
std::optional<SnapshotMoment> agree_on_moment(Communicator& comm, const KeptRanks& kept) {
  std::vector<std::string> damaged;
  const std::optional<MomentPlace> newest = kept.newest(damaged);
  for (const std::string& why : damaged) spdlog::warn("{}", why);
  const SnapshotMoment mine = newest ? newest->moment : SnapshotMoment{-1, 0};
  const auto bytes = all_gather_control(comm, "snapshots", std::as_bytes(std::span(&mine, 1)));
  std::vector<SnapshotMoment> all(static_cast<std::size_t>(comm.size()));
  std::memcpy(all.data(), bytes.data(), bytes.size());
  SnapshotMoment oldest = all.front();
  for (const SnapshotMoment& moment : all) {
    if (moment.step < oldest.step) oldest = moment;
  }
  const std::string lacks =
      oldest.step >= 0 && kept.find(oldest, damaged) ? "" : "it is not in this node's memory";
  if (!first_reason(comm, "snapshots", lacks).empty()) return std::nullopt;
  return oldest;
}

// Each rank of a node checks some of what lies there.
std::string damage_of(const MomentPlace& place, const RankSetting& rank) {
  try {
    const std::vector<SealedSnapshot> snapshots = snapshots_of(place);
    for (std::size_t i = 0; i < snapshots.size(); ++i) {
      if (static_cast<int>(i) % rank.ranks_on_node == rank.comm.rank() % rank.ranks_on_node)
        snapshots[i].verify();
    }
  } catch (const SystemError& e) {
    return e.what();
  }
  return "";
}

// Damaged slots are emptied, on whatever rank's account.
void drop(const MomentPlace& place) {
  for (const auto& [kept, slot] : place.slots) SnapshotMemory(kept->snapshots).clear(slot);
}

// That no other start of a run has.
std::int64_t new_number() {
  std::random_device device;
  return static_cast<std::int64_t>(std::uint64_t{device()} << 32 | device());
}

}  // namespace

KeeperOptions keeper_of(const Prepared& p) {
  const char* node = std::getenv("THIMBLE_NODE");
  return {.run = std::filesystem::absolute(p.run).lexically_normal(),
          .node = node != nullptr ? node : host_name(),
          .minutes = p.job.checkpoint.keeper_minutes};
}

std::optional<MemoryFile> RecoveredSnapshots::own(int rank) {
  if (!moment) return std::nullopt;
  std::vector<std::string> told;
  const auto place = kept.find(*moment, told);
  for (const auto& [held, slot] : place->slots) {
    const auto sealed = held->snapshots.sealed(slot);
    if (!sealed || sealed->text.rank != rank) continue;
    FileDescriptor copy(::dup(held->memory.descriptor()));
    return MemoryFile::adopt(std::move(copy));
  }
  return std::nullopt;
}

RecoveredSnapshots recover_snapshots(const RankSetting& rank, const Prepared& p,
                                     std::int64_t saved_step) {
  RecoveredSnapshots found;
  Communicator& comm = rank.comm;
  std::optional<KeeperClient> keeper = find_keeper(p, comm.rank());
  if (keeper) {
    KeptMemory memory = keeper->look();
    found.saving_step = memory.saving_step;
    for (auto& [of, file] : memory.ranks) {
      found.kept.keep(of, std::move(file));
      found.kept.make_older();  // one rank may be there twice
    }
  }
  const TrainArguments& arguments = rank.arguments;
  const bool anew = arguments.fresh || arguments.resume_from.has_value();
  while (const auto moment = agree_on_moment(comm, found.kept)) {
    if (anew || moment->step < saved_step) break;
    if (arguments.resume == "never")
      throw_user(
          "--resume never: step {} of this run is in its keeper's memory; --fresh starts "
          "anew",
          moment->step);
    std::vector<std::string> told;
    const MomentPlace place = *found.kept.find(*moment, told);
    const std::string damage = first_reason(comm, "snapshots", damage_of(place, rank));
    if (!damage.empty()) {
      if (comm.rank() == 0) spdlog::warn("passed over: {}", damage);
      drop(place);
      barrier(comm, "snapshots");
      continue;
    }
    std::vector<SnapshotPart> parts;
    for (const SealedSnapshot& snapshot : snapshots_of(place)) parts.push_back(part_of(snapshot));
    found.reader = std::make_unique<SnapshotReader>(std::move(parts));
    found.moment = moment;
    return found;
  }
  if (keeper) keeper->forget();
  found.kept.clear();
  barrier(comm, "snapshots");
  return found;
}

SavedRun::SavedRun(const RankSetting& rank, const Prepared& p, const CheckpointIo& io) {
  Communicator& comm = rank.comm;
  if (comm.rank() == 0) disk_step = newest_whole_step(p.run / "checkpoints", io);
  disk_step = from_leader(comm, "the checkpoint", disk_step);
  memory = recover_snapshots(rank, p, disk_step);
  is_from_memory = memory.moment.has_value();
  if (is_from_memory) {
    saved = memory.reader.get();
    return;
  }
  if (auto chosen = agree_on_checkpoint(rank.arguments, comm, p.run, io))
    checkpoint.emplace(std::move(*chosen));
  disk_step = checkpoint ? checkpoint->step() : -1;
  if (checkpoint) saved = &*checkpoint;
}

std::optional<Snapshots> make_snapshots(const RankSetting& rank, const Prepared& p,
                                        SnapshotSource source, RecoveredSnapshots memory) {
  if (!p.spec.snapshots) return std::nullopt;
  const auto start = from_leader(rank.comm, "the start", new_number());
  const std::int64_t saving = from_leader(rank.comm, "the save", memory.saving_step);
  return std::optional<Snapshots>(std::in_place,
                                  Snapshots::Parts{.engine = source.engine,
                                                   .keeper = keeper_of(p),
                                                   .identity = source.identity,
                                                   .room = std::move(source.room),
                                                   .start = static_cast<std::uint64_t>(start),
                                                   .kept = memory.own(rank.comm.rank()),
                                                   .recovered = memory.moment,
                                                   .saving_step = saving});
}

}  // namespace thimble
