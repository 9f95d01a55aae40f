// Moves the state of all ranks to and from one checkpoint directory: every rank its own byte ranges
// (checkpoint_arrays.h decides which). Knows no engine and no run; train/save_checkpoint joins
// those.
#pragma once

#include <filesystem>
#include <string>

#include "checkpoint/checkpoint_arrays.h"
#include "checkpoint/state_reader.h"
#include "core/nn/state_residency.h"
#include "parallel/communicator.h"

namespace thimble {

/// A save that has failed on one rank and is told on all of them: they can go on together.
class CheckpointNotSaved : public SystemError {
 public:
  using SystemError::SystemError;
};

/// What is saved or loaded: everything that the table names as kept at a step.
struct CheckpointState {
  const StateTable& table;
  StateResidency& state;  // the way to the bytes of this rank
  std::int64_t step = 1;  // decides which entries are kept: see StateTable::generation()
};

/// Where a save goes, and what it says of itself.
struct CheckpointTarget {
  CheckpointIo io;
  std::filesystem::path directory;  // of all checkpoints
  std::int64_t step = 0;            // gives the checkpoint its name
  std::string metadata;             // JSON
};

/// Writes ckpt-<step>; all ranks call it together. Returns the checkpoint's directory. Throws
/// CheckpointNotSaved on all ranks if the disk refuses on one; earlier checkpoints are then
/// untouched.
std::filesystem::path save_state(const CheckpointState& saved, Communicator& comm,
                                 const CheckpointTarget& target);

/// Leases what save_state() leases and writes nothing: for planning its memory.
void plan_save(const CheckpointState& saved, int rank);

/// Reads what `rank` holds, whatever ranks and ZeRO stage wrote it. Throws UserError if the
/// checkpoint does not hold exactly the table's arrays, SystemError if it cannot be read.
void load_state(const CheckpointState& loaded, int rank, const StateReader& reader);

}  // namespace thimble
