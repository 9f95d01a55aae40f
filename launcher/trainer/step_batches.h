// The micro-batches of this rank for the coming step, read while the step before computes.
#pragma once

#include <vector>

#include "core/device/stream.h"
#include "launcher/trainer/step_hook.h"

namespace thimble {

class StepBatches {
 public:
  explicit StepBatches(const TrainerParts& parts) : parts_(parts) {}

  /// Begins to read the sequences of a step, if the run has it.
  void prefetch(std::int64_t step);
  /// Until they are there; a failure is told to `run`, whose data_error ends the run once it is
  /// saved.
  void wait(RunState& run);
  std::vector<Batch> take() { return std::move(next_); }

 private:
  std::vector<Batch> batches_of(std::int64_t step) const;

  const TrainerParts& parts_;
  // The loader writes to next_ and is last: it ends first.
  std::vector<Batch> next_;
  Stream loader_{"data"};
  Completion ready_;
};

}  // namespace thimble
