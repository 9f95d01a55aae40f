// Training a job from its first to its last step, on one rank: the loop over the steps. What
// happens between two steps (evaluation, saving, stopping, ...) are hooks in files of their own.
#pragma once

#include <memory>
#include <vector>

#include "launcher/trainer/step_batches.h"
#include "launcher/trainer/step_hook.h"
#include "optim/schedule.h"

namespace thimble {

enum class TrainOutcome : std::uint8_t { kFinished, kStopped };

class Trainer {
 public:
  /// All ranks make and run theirs together.
  Trainer(TrainerParts parts, const TrainState& state);

  /// Trains until the last step, early stopping or a stop signal (then saved); evaluates, saves and
  /// exports on the way, and records that the run is finished. Throws SystemError after too many
  /// consecutive non-finite steps, and if at the end the last step could not be saved. An error of
  /// one rank must be followed by comm().abort(), before the trainer is destroyed.
  TrainOutcome run();

 private:
  template <typename Hook, typename... Args>
  Hook& add(Args&&... args) {
    auto hook = std::make_unique<Hook>(std::forward<Args>(args)...);
    Hook& added = *hook;
    hooks_.push_back(std::move(hook));
    return added;
  }
  TrainState after_step(const StepResult& result) const;
  StepReport make_step(const std::vector<Batch>& micro_batches);
  bool may_step();

  RunState run_;
  Schedule schedule_;
  std::vector<std::unique_ptr<StepHook>> hooks_;
  // Last, for it reads what is above: it ends first. A member, not a local of run(): an error that
  // leaves it is told to the other ranks before this one waits for the loader.
  StepBatches batches_;
};

}  // namespace thimble
