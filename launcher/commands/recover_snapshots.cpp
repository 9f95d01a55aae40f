#include "launcher/commands/recover_snapshots.h"

#include <spdlog/spdlog.h>

#include <cstdlib>
#include <random>

#include "launcher/commands/choose_checkpoint.h"
#include "launcher/commands/kept_moments.h"
#include "launcher/run/machine.h"
#include "parallel/collectives.h"

namespace thimble {
namespace {

// A run that takes snapshots needs one anyway, and a node that takes a lost one's place has to be
// found by the others.
NearKeeper near_keeper(const Prepared& p, int rank) {
  NearKeeper near{keeper_of(p), std::nullopt};
  try {
    if (p.spec.snapshots) {
      near.client.emplace(KeeperClient::find_or_start(near.options, rank));
    } else if (auto found = KeeperClient::find(near.options, rank)) {
      near.client.emplace(std::move(*found));
    }
  } catch (const std::runtime_error& e) {
    spdlog::warn("the keeper of this run cannot be asked: {}", e.what());
  }
  return near;
}

// That no other start of a run has.
std::int64_t new_number() {
  std::random_device device;
  return static_cast<std::int64_t>(std::uint64_t{device()} << 32 | device());
}

}  // namespace

KeeperOptions keeper_of(const Prepared& p) {
  const char* node = std::getenv("THIMBLE_NODE");
  const char* address = std::getenv("THIMBLE_NODE_ADDRESS");
  KeeperOptions options{.run = std::filesystem::absolute(p.run).lexically_normal(),
                        .node = node != nullptr ? node : host_name(),
                        .minutes = p.job.checkpoint.keeper_minutes};
  if (p.job.checkpoint.write_rate.value)
    options.write_rate = p.job.checkpoint.write_rate.value->bytes;
  options.is_simulated = node != nullptr;
  if (address != nullptr) {
    try {
      options.address = ipv4_address(address);
    } catch (const UserError& e) {
      throw_user("THIMBLE_NODE_ADDRESS: {}", e.what());
    }
  }
  return options;
}

std::optional<MemoryFile> RecoveredSnapshots::own(int rank) {
  if (!moment) return std::nullopt;
  for (const auto& [held, slot] : kept.here(*moment).slots) {
    const auto sealed = held->snapshots.sealed(slot);
    if (sealed && sealed->text.rank == rank) return share(held->memory);
  }
  return std::nullopt;
}

RecoveredSnapshots recover_snapshots(const RankSetting& rank, const Prepared& p,
                                     std::int64_t saved_step) {
  Communicator& comm = rank.comm;
  RecoveredSnapshots found;
  found.secret = all_gather_texts(comm, "the keepers", fmt::format("{:016x}", new_number()))[0];
  NearKeeper near = near_keeper(p, comm.rank());
  KeptMoments moments(comm, near, found.secret);
  found.saving_step = moments.saving_step();
  const TrainArguments& arguments = rank.arguments;
  const bool anew = arguments.fresh || arguments.resume_from.has_value();
  while (const std::optional<SnapshotMoment> moment = moments.newest()) {
    if (anew || moment->step < saved_step) break;
    if (arguments.resume == "never")
      throw_user(
          "--resume never: step {} of this run is in its keeper's memory; --fresh starts anew",
          moment->step);
    std::string failure = moments.make_whole(*moment);
    try {
      if (failure.empty()) found.reader = std::make_unique<SnapshotReader>(moments.parts(*moment));
    } catch (const std::runtime_error& e) {
      failure = e.what();
    }
    failure = first_reason(comm, "snapshots", failure);
    if (failure.empty()) {
      found.moment = moment;
      found.kept = moments.here();
      found.client = std::move(near.client);
      return found;
    }
    found.reader.reset();
    if (comm.rank() == 0)
      spdlog::warn("passed over: the snapshot of step {}: {}", moment->step, failure);
    moments.pass_over(*moment);
  }
  try {
    if (near.client && moments.any()) near.client->forget();
  } catch (const SystemError& e) {
    spdlog::warn("the keeper of this run cannot be asked: {}", e.what());
    near.client.reset();
  }
  found.saving_step = -1;
  found.client = std::move(near.client);
  barrier(comm, "snapshots");
  return found;
}

SavedRun::SavedRun(const RankSetting& rank, const Prepared& p, const CheckpointIo& io) {
  Communicator& comm = rank.comm;
  if (comm.rank() == 0) {
    remove_unfinished(p.run / "checkpoints");
    disk_step = newest_whole_step(p.run / "checkpoints", io);
  }
  disk_step = from_leader(comm, "the checkpoint", disk_step);
  memory = recover_snapshots(rank, p, disk_step);
  is_from_memory = memory.moment.has_value();
  if (is_from_memory) {
    saved = memory.reader.get();
    return;
  }
  if (auto chosen = agree_on_checkpoint(rank.arguments, comm, p.run, io))
    checkpoint.emplace(std::move(*chosen));
  // One from elsewhere is none of this run's.
  const bool is_own = checkpoint && rank.arguments.resume_directory.empty();
  disk_step = is_own ? checkpoint->step() : -1;
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
                                                   .erasure = p.job.checkpoint.erasure,
                                                   .secret = memory.secret,
                                                   .identity = source.identity,
                                                   .room = std::move(source.room),
                                                   .start = static_cast<std::uint64_t>(start),
                                                   .kept = memory.own(rank.comm.rank()),
                                                   .recovered = memory.moment,
                                                   .saving_step = saving,
                                                   .client = std::move(memory.client)});
}

}  // namespace thimble
