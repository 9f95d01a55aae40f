// The forward and backward passes of a TrainEngine over the micro-batches of a step. The loss is
// divided by the number of trained tokens of the whole step here, as the scale of every gradient.
#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>

#include "core/base/random.h"
#include "core/ops/op_observer.h"
#include "parallel/collectives.h"
#include "train/batch_feed.h"
#include "train/batch_sums.h"
#include "train/train_engine.h"

namespace thimble {

TrainEngine::Sums TrainEngine::run_micro_batches(std::span<const Batch> micro_batches) {
  Sums sums;
  ExactSum weight = total_weight(micro_batches);
  all_reduce(comm_, "loss weights", std::span(&weight, 1));
  sums.weight = weight.value();
  const auto scale = static_cast<float>(sums.weight > 0 ? 1.0 / sums.weight : 0.0);
  if (options_.by_layers && micro_batches.size() > 1) {
    run_by_layers(micro_batches, scale, sums);
  } else {
    run_one_by_one(micro_batches, scale, sums);
  }
  return sums;
}

// Fused: the backward pass of the last micro-batch changes weights and must not begin in vain.
bool TrainEngine::is_loss_finite(BatchFeed& feed, Sums& sums) {
  ExactSum loss = feed.loss();
  all_reduce(comm_, "loss", std::span(&loss, 1));
  sums.usable = std::isfinite(loss.value());
  if (!sums.usable) sums.loss = feed.loss();
  return sums.usable;
}

void TrainEngine::run_one_by_one(std::span<const Batch> micro_batches, float scale, Sums& sums) {
  const bool repeats = micro_batches_repeat();
  BatchFeed feed(arena_, micro_batches, graph_caches_.size());
  for (std::size_t i = 0; i < micro_batches.size() && sums.usable; ++i) {
    const bool last = i + 1 == micro_batches.size();
    gradients_->begin_micro_batch(0, last);
    const BatchTensors& batch = feed.next();
    const auto run_one = [&] {
      std::optional<UpdatedOnDemand> on_demand;
      if (delayed_ && delayed_->is_pending()) on_demand.emplace(*store_, *delayed_);
      Tape tape(arena_, *gradients_, *activations_, options_.recompute, options_.recompute_share);
      Context ctx{.store = on_demand ? static_cast<ParamStore&>(*on_demand) : *store_,
                  .arena = arena_,
                  .dtype = options_.dtype,
                  .tape = &tape,
                  .fp8 = options_.fp8};
      phase("forward", true);
      feed.keep(model_.loss(ctx, batch, tables_, scale));
      phase("forward", false);
      finish_update();
      if (fused_ && last) {
        feed.send();
        if (!is_loss_finite(feed, sums)) return;
      }
      phase("backward", true);
      begin_backward(fused_ && last && fused_->updates());
      tape.backward();
      end_backward();
      phase("backward", false);
    };
    if (repeats && i > 0 && !last) {
      const std::uint64_t key =
          mix64(mix64(arena_.layout_hash(), gradients_->places_hash()), feed.key());
      graph_caches_[i % graph_caches_.size()].run(mix64(key, std::bit_cast<std::uint32_t>(scale)),
                                                  run_one);
    } else {
      run_one();
    }
    if (!(fused_ && last)) feed.send();
  }
  sums.loss = feed.loss();
}

// Whether the micro-batches between a step's first and last do the same on this GPU each time, and
// nothing on the host.
bool TrainEngine::micro_batches_repeat() const {
  if (!options_.graphs || arena_.is_on_cpu() || arena_.device().planning || is_observed() ||
      !activations_stay_)
    return false;
  const auto takes_projected = [&](const UpdateItem& item) {
    return projection_->width(item.id) > 0;
  };
  return store_->stays_in_place() && gradients_->middle_micro_batches_stay_local() &&
         std::none_of(active_.begin(), active_.end(), takes_projected);
}

StepResult TrainEngine::accumulate(std::span<const Batch> micro_batches) {
  finish_update();
  step_ = 0;
  if (stored_) stored_->begin_step(0);
  TH_CHECK(!fused_, "gradients are not kept");
  const Sums sums = run_micro_batches(micro_batches);
  return {.loss = sums.weight > 0 ? sums.loss.value() / sums.weight : 0.0,
          .trained_tokens = count_trained(micro_batches)};
}

EvalSum TrainEngine::evaluate(const Batch& batch) {
  finish_update();
  BatchFeed feed(arena_, std::span(&batch, 1), 1);
  Context ctx{.store = *store_, .arena = arena_, .dtype = options_.dtype, .fp8 = options_.fp8};
  feed.keep(model_.loss(ctx, feed.next(), tables_, 1.0f));
  feed.send();
  return {.weighted_loss = feed.loss().value(),
          .weight = total_weight(std::span(&batch, 1)).value()};
}

}  // namespace thimble
