// Saves a training engine and where its run stands as a checkpoint directory, and loads them from
// one. Which bytes each rank writes is decided in checkpoint/checkpoint_arrays.h. This is about
// files: activation checkpointing is Recompute in core/autograd.
#pragma once

#include <cstdint>
#include <filesystem>

#include "checkpoint/save_state.h"
#include "train/offload_stores.h"
#include "train/train_engine.h"
#include "train/train_state.h"

namespace thimble {

/// What a checkpoint says of a run, as text.
struct TrainMetadata {
  std::int64_t step = 0;
  std::string text;  // of checkpoint_metadata()
};

/// Writes ckpt-<step> with every entry of the engine's table that is saved, every rank its own
/// rows; all ranks call it together. Staging memory comes from the engine's arena (tag io). On a
/// planning arena it only reserves that memory. Throws CheckpointNotSaved on all ranks if the disk
/// refuses on one; earlier checkpoints are then untouched.
std::filesystem::path save_checkpoint(TrainEngine& engine, FileEngine& files,
                                      const std::filesystem::path& directory,
                                      const TrainState& state, const CheckpointIdentity& identity);

/// The same of a state on disk (`offload`: the engine's stores), which becomes the checkpoint where
/// it lies, without being copied. None, and nothing is done, if it cannot.
std::optional<std::filesystem::path> lend_checkpoint(TrainEngine& engine, OffloadStores& offload,
                                                     FileEngine& files,
                                                     const std::filesystem::path& directory,
                                                     const TrainMetadata& metadata);

/// Loads this rank's rows of all state, whatever ranks and ZeRO stage wrote them; the compute
/// weights are derived anew. Throws UserError for another model's checkpoint.
TrainState load_checkpoint(TrainEngine& engine, const StateReader& reader);

/// Takes up the state on disk upon which the engine was made, as load_checkpoint() does a
/// checkpoint.
TrainState load_offloaded(TrainEngine& engine, OffloadStores& stores, const CommitRecord& record);

/// Bytes of staging memory that saving and verifying use.
inline constexpr std::int64_t kCheckpointScratchBytes = 2 * kCheckpointBlockBytes;

}  // namespace thimble
