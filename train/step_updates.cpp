// The updates of a TrainEngine: after the backward pass, within it, or under the next forward pass.
#include <algorithm>
#include <cmath>
#include <limits>

#include "train/batch_sums.h"
#include "train/gradient_clipping.h"
#include "train/train_engine.h"

namespace thimble {

void TrainEngine::update(std::span<const UpdateItem> items, const UpdateStep& step,
                         bool announced) {
  if (!announced) state_.announce(loop_.uses(items, step.number));
  loop_.step(*client_, items, step);
}

StepResult TrainEngine::plain_step(std::span<const Batch> micro_batches, std::int64_t step,
                                   double lr) {
  const Sums sums = run_micro_batches(micro_batches);
  StepResult result{.trained_tokens = count_trained(micro_batches)};
  phase("norm", true);
  std::int32_t first_bad = -1;
  const ExactSum squared = squares(first_bad);
  agree(sums, squared, first_bad, result);
  phase("norm", false);
  if (result.skipped) {
    gradients_->release_all();
    return result;
  }
  phase("update", true);
  for (UpdateItem& item : active_)
    item.grad_scale = clip_factor(options_.max_grad_norm, result.grad_norm);
  if (delayed_) {
    delay_update({step, lr});
  } else {
    update(active_, {step, lr}, false);
    store_->publish();
  }
  phase("update", false);
  return result;
}

StepResult TrainEngine::fused_step(std::span<const Batch> micro_batches, std::int64_t step,
                                   double lr) {
  FusedUpdate::Step update{.update = {.number = step, .lr = lr}};
  StepResult result{.trained_tokens = count_trained(micro_batches)};
  Sums sums;
  if (options_.clip_mode == ClipMode::kTwoPass) {
    update.only_measures = true;
    fused_->begin(update, active_);
    sums = run_micro_batches(micro_batches);
    const double norm = std::sqrt(fused_->squares().value());
    if (!sums.usable || !fused_->skipped().empty()) {
      const std::int32_t bad =
          fused_->skipped().empty() ? -1 : static_cast<std::int32_t>(fused_->skipped().front());
      ExactSum none;
      none.add(std::numeric_limits<double>::quiet_NaN());
      gradients_->release_all();
      agree(sums, none, bad, result);
      return result;
    }
    update.only_measures = false;
    update.grad_scale = clip_factor(options_.max_grad_norm, norm);
  } else if (options_.clip_mode == ClipMode::kLagged && last_grad_norm_ > 0) {
    update.grad_scale = clip_factor(options_.max_grad_norm, last_grad_norm_);
  } else if (options_.clip_mode == ClipMode::kPerTensor) {
    update.max_tensor_norm = options_.max_grad_norm;
  }
  fused_->begin(update, active_);
  sums = run_micro_batches(micro_batches);
  if (sums.usable) store_->publish();
  // Every rank has the sum over all of them.
  const ExactSum squares = plan_.stage() == 0 || comm_.rank() == 0 ? fused_->squares() : ExactSum();
  agree(sums, squares, -1, result);
  if (result.skipped) {
    gradients_->release_all();
    return result;
  }
  result.skipped_tensors = static_cast<int>(fused_->skipped().size());
  if (result.skipped_tensors > 0)
    result.first_bad = model_.params().info(fused_->skipped().front()).name;
  last_grad_norm_ = result.grad_norm;
  return result;
}

// The gradients stay until then.
void TrainEngine::delay_update(const UpdateStep& step) {
  std::vector<StateUse> uses;
  for (const std::vector<UpdateItem>& items : delayed_->begin(active_, step)) {
    const std::vector<StateUse> more = loop_.uses(items, step.number);
    uses.insert(uses.end(), more.begin(), more.end());
  }
  state_.announce(uses);
}

void TrainEngine::finish_update() {
  if (!delayed_ || !delayed_->is_pending()) return;
  delayed_->finish();
  commit(delayed_->step().number);
}

}  // namespace thimble
