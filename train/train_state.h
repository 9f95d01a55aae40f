// Where a run stands, as a checkpoint's metadata says it.
#pragma once

#include <cstdint>
#include <string>

#include "checkpoint/state_reader.h"

namespace thimble {

/// Where a run stands; kept in a checkpoint's metadata.
struct TrainState {
  std::int64_t step = 0;            // optimizer steps done
  std::int64_t tokens_seen = 0;     // input positions
  std::int64_t trained_tokens = 0;  // positions with a loss
  std::int64_t skipped_steps = 0;
  double best_eval_loss = 0;
  std::int64_t best_step = -1;  // -1: none yet
  std::int64_t evals_without_gain = 0;
  double last_grad_norm = 0;  // of the last step, for lagged clipping; 0: none
};

/// What makes a checkpoint usable on its own.
struct CheckpointIdentity {
  std::string model_config;  // text of config.json
  std::string tokenizer;     // directory, file or "byte"
  std::string resolved_job;  // TOML
};

/// JSON; the state and the identity come back from it.
std::string checkpoint_metadata(const TrainState& state, const CheckpointIdentity& identity);

/// The state in such a text, which `where` names in messages. Throws UserError.
TrainState state_of_metadata(const std::string& metadata, const std::string& where);

/// Throw UserError if the metadata is not what checkpoint_metadata() wrote.
TrainState checkpoint_state(const StateReader& reader);
CheckpointIdentity checkpoint_identity(const StateReader& reader);

}  // namespace thimble
