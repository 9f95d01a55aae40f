// What happens between the steps of a run: each behaviour is a hook in a file of its own, and the
// trainer calls all of them at the boundaries of every step, in the order of its list.
#pragma once

#include <cstdint>
#include <string>

#include "launcher/trainer/trainer_parts.h"
#include "parallel/communicator.h"
#include "train/train_state.h"

namespace thimble {

/// Where a run stands, for the trainer and its hooks. Decisions are the same on every rank.
struct RunState {
  TrainerParts parts;
  TrainState train;              // steps and tokens so far; kept in checkpoints
  std::int64_t last_saved = -1;  // step of the newest checkpoint; -1: none
  bool improved = false;         // the evaluation after this step is the best so far
  bool stop_early = false;       // early stopping has ended the run
  bool stopping = false;         // a rank was told to stop: no further step is made
  double longest_step_s = 0, longest_save_s = 0;
  std::string data_error;  // why this rank could not read data; empty: it could

  Communicator& comm() const { return parts.engine.comm(); }
  bool leads() const { return comm().rank() == 0; }
  bool is_last() const { return train.step == parts.total_steps; }
  /// Whether something that is done every so many steps is done after this one; 0: never.
  bool due(std::int64_t every) const { return every > 0 && train.step % every == 0; }
  /// Tells those who watch this rank what it does.
  void tell_phase(const char* name) const;
  /// "the last checkpoint is that of step 10"
  std::string saved_text() const;
};

/// A step that was made.
struct StepReport {
  StepResult result;
  double lr = 0;
  double seconds = 0;
};

class StepHook {
 public:
  virtual ~StepHook() = default;
  /// Once, before the first step that this process makes.
  virtual void begin(RunState&) {}
  /// Before step run.train.step + 1. Setting run.stopping, on all ranks, ends the run here.
  virtual void before_step(RunState&) {}
  /// After step run.train.step.
  virtual void after_step(RunState&, const StepReport&) {}
  /// Once, when no further step will be made, for whatever reason.
  virtual void after_last_step(RunState&) {}
  /// Once, when the last step has been saved.
  virtual void end(RunState&) {}
};

}  // namespace thimble
