// Updates parameters as soon as their gradients are reduced, while the rest of the backward pass
// computes, so that gradients never exist all at once.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "core/nn/step_gradients.h"
#include "optim/update_loop.h"
#include "parallel/communicator.h"
#include "train/clip_mode.h"

namespace thimble {

class FusedUpdate {
 public:
  /// Updates parameters that are ready together.
  using Update = std::function<void(std::span<const UpdateItem>, const UpdateStep&)>;

  /// What it works with; all of it must outlive the FusedUpdate.
  struct Parts {
    Arena& arena;
    const ParamTable& params;
    Communicator& comm;
    StepGradients& gradients;
    bool shards_gradients;  // each rank has rows of a gradient, not all of it
  };
  FusedUpdate(const Parts& parts, Update update) : parts_(parts), update_(std::move(update)) {}

  struct Step {
    UpdateStep update;
    double grad_scale = 1;
    double max_tensor_norm = 0;  // 0: no clipping by tensor
    bool only_measures = false;  // gradients are dropped, nothing is updated
  };
  /// Call it before the micro-batches of a step.
  void begin(const Step& step, std::span<const UpdateItem> items);
  /// The gradients of these parameters are final. All ranks call it with the same ones.
  void ready(std::span<const ParamId> ids);

  /// Whether the running step's gradients change anything, or are only measured.
  bool updates() const { return !step_.only_measures; }
  /// The sum of squares of all gradients so far that were finite, over all ranks.
  const ExactSum& squares() const { return squares_; }
  /// Parameters that were left alone because their gradient was not finite.
  const std::vector<ParamId>& skipped() const { return skipped_; }

 private:
  Parts parts_;
  Update update_;
  Step step_;
  std::vector<UpdateItem> items_;  // by parameter
  ExactSum squares_;
  std::vector<ParamId> skipped_;
};

}  // namespace thimble
