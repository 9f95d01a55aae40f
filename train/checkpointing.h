// A training engine's state to and from checkpoint directories.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/checkpoint_writer.h"
#include "train/train_engine.h"
#include "train/train_state.h"

namespace thimble {

/// A save that has failed on one rank and is told on all of them: they can go on together.
class CheckpointNotSaved : public SystemError {
 public:
  using SystemError::SystemError;
};

/// Writes ckpt-<step> with every entry of the engine's table that is saved, every rank its own
/// rows; all ranks call it together. Scratch memory from the engine's arena (tag io). On a planning
/// arena only reserves it. Throws CheckpointNotSaved on all ranks if the disk refuses on one;
/// earlier checkpoints are then untouched.
std::filesystem::path save_checkpoint(TrainEngine& engine, FileEngine& files,
                                      const std::filesystem::path& directory,
                                      const TrainState& state, const CheckpointIdentity& identity);

/// Loads this rank's rows of all state, whatever ranks and stage wrote them; the compute weights
/// are derived anew. Throws UserError for another model's checkpoint.
TrainState load_checkpoint(TrainEngine& engine, const CheckpointReader& reader);

/// Bytes of scratch memory that saving and verifying use.
inline constexpr std::int64_t kCheckpointScratchBytes = 2 * kCheckpointBlockBytes;

}  // namespace thimble
