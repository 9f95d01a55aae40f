#include "train/save_checkpoint.h"

#include <algorithm>

#include "core/base/failpoint.h"

namespace thimble {
namespace {

CheckpointState kept_state(TrainEngine& engine) {
  return {.table = engine.table(), .state = engine.state(), .step = engine.state_step()};
}

Reservation reserve_scratch(TrainEngine& engine) {
  return engine.arena().pinned().reserve(MemoryTag::kIo, kCheckpointScratchBytes,
                                         "checkpoint blocks");
}

std::span<std::byte> bytes_of(const Reservation& memory) {
  return {static_cast<std::byte*>(memory.data()), static_cast<std::size_t>(memory.size_bytes())};
}

}  // namespace

std::filesystem::path save_checkpoint(TrainEngine& engine, FileEngine& files,
                                      const std::filesystem::path& directory,
                                      const TrainState& state, const CheckpointIdentity& identity) {
  const bool planning = engine.arena().device().planning;
  if (!planning) failpoint("checkpoint.scratch");
  const Reservation scratch = reserve_scratch(engine);
  if (planning) {
    plan_save(kept_state(engine), engine.rank());
    return {};
  }
  return save_state(kept_state(engine), engine.comm(),
                    {.io = {files, bytes_of(scratch)},
                     .directory = directory,
                     .step = state.step,
                     .metadata = checkpoint_metadata(state, identity)});
}

std::optional<std::filesystem::path> lend_checkpoint(TrainEngine& engine, OffloadStores& offload,
                                                     FileEngine& files,
                                                     const std::filesystem::path& directory,
                                                     const TrainMetadata& metadata) {
  const Reservation scratch = reserve_scratch(engine);
  engine.store().commit(metadata.step);  // nothing is read ahead while files change hands
  return offload.lend_checkpoint(engine.state_step(), {.io = {files, bytes_of(scratch)},
                                                       .directory = directory,
                                                       .step = metadata.step,
                                                       .metadata = metadata.text});
}

TrainState load_checkpoint(TrainEngine& engine, const StateReader& reader) {
  const TrainState state = checkpoint_state(reader);
  engine.keep_state_of(std::max<std::int64_t>(1, state.step));
  load_state(kept_state(engine), engine.rank(), reader);
  engine.refresh_weights(state.step);
  return state;
}

TrainState load_offloaded(TrainEngine& engine, OffloadStores& stores, const CommitRecord& record) {
  const TrainState state = state_of_metadata(record.note, "the state on disk");
  engine.keep_state_of(std::max<std::int64_t>(1, state.step));
  stores.restore_weights();
  stores.home()->set_note(record.note);
  engine.refresh_weights(state.step);
  return state;
}

}  // namespace thimble
