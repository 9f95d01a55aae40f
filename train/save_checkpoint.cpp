#include "train/save_checkpoint.h"

#include <algorithm>

#include "core/base/failpoint.h"

namespace thimble {
namespace {

CheckpointState kept_state(TrainEngine& engine) {
  return {.table = engine.table(), .state = engine.state(), .step = engine.state_step()};
}

}  // namespace

std::filesystem::path save_checkpoint(TrainEngine& engine, FileEngine& files,
                                      const std::filesystem::path& directory,
                                      const TrainState& state, const CheckpointIdentity& identity,
                                      OffloadStores* offload) {
  const bool planning = engine.arena().device().planning;
  if (!planning) failpoint("checkpoint.scratch");
  const Reservation scratch =
      engine.arena().pinned().reserve(MemoryTag::kIo, kCheckpointScratchBytes, "checkpoint blocks");
  if (planning) {
    plan_save(kept_state(engine), engine.rank());
    return {};
  }
  const CheckpointTarget target{.io = {files,
                                       {static_cast<std::byte*>(scratch.data()),
                                        static_cast<std::size_t>(kCheckpointScratchBytes)}},
                                .directory = directory,
                                .step = state.step,
                                .metadata = checkpoint_metadata(state, identity)};
  if (offload != nullptr) {
    engine.store().commit(state.step);  // nothing is read ahead while files change hands
    if (auto path = offload->lend_checkpoint(engine.state_step(), target)) return *path;
  }
  return save_state(kept_state(engine), engine.comm(), target);
}

TrainState load_checkpoint(TrainEngine& engine, const CheckpointReader& reader) {
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
