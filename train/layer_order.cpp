// The micro-batches of a step in the order of layers: all of them go through a stage of the model
// before any goes through the next, so that weights which are brought from elsewhere are brought
// twice in a step and not twice in every micro-batch. The sums are those of one micro-batch after
// the other, bit for bit: in the backward pass they take turns in their order. In the forward pass
// they do so in the reverse order, and what it puts aside is asked for as a stack. Ref:
// GreedySnake, the vertical schedule of gradient accumulation.
#include <cmath>
#include <deque>
#include <optional>

#include "parallel/collectives.h"
#include "train/batch_feed.h"
#include "train/stage_pins.h"
#include "train/train_engine.h"

namespace thimble {
namespace {

// One micro-batch on its way.
struct PassUnderWay {
  std::unique_ptr<Tape> tape;
  Context ctx;
  BatchTensors batch;
  Tensor carried;                     // of the model's make_carried()
  Var x{};                            // what its last stage gave
  std::vector<std::size_t> begins{};  // on the tape, by stage
};

}  // namespace

void TrainEngine::run_by_layers(std::span<const Batch> micro_batches, float scale, Sums& sums) {
  const std::size_t count = micro_batches.size(), last_stage = model_.num_stages() - 1;
  BatchFeed feed(arena_, micro_batches, count);
  std::optional<UpdatedOnDemand> on_demand;
  if (delayed_ && delayed_->is_pending()) on_demand.emplace(*store_, *delayed_);
  StagePins pins(on_demand ? static_cast<ParamStore&>(*on_demand) : *store_);
  std::deque<PassUnderWay> passes;
  for (std::size_t i = 0; i < count; ++i) {
    auto tape = std::make_unique<Tape>(arena_, *gradients_, *activations_, options_.recompute,
                                       options_.recompute_share);
    const Context ctx{pins, arena_, options_.dtype, tape.get(), options_.fp8};
    const BatchTensors& batch = feed.next();
    passes.push_back({std::move(tape), ctx, batch, model_.make_carried(arena_, batch)});
  }
  const auto forward = [&](PassUnderWay& pass, std::size_t stage) {
    pass.begins.push_back(pass.tape->mark());
    const ModelInputs inputs{pass.batch, tables_, scale, pass.carried};
    pass.x = model_.stage(pass.ctx, inputs, stage, std::move(pass.x));
  };
  phase("forward", true);
  for (std::size_t stage = 0; stage < last_stage; ++stage) {
    for (std::size_t i = count; i-- > 0;) forward(passes[i], stage);
    pins.end_stage();
  }
  phase("forward", false);
  finish_update();
  // The last stage computes gradients in its forward pass, so its backward pass follows at once.
  for (std::size_t i = 0; i < count; ++i) {
    const bool last = i + 1 == count;
    gradients_->begin_micro_batch(i, last);
    phase("forward", true);
    forward(passes[i], last_stage);
    feed.keep(std::exchange(passes[i].x, {}).value);
    feed.send();
    phase("forward", false);
    if (last && fused_ && !is_loss_finite(feed, sums)) {
      gradients_->end_micro_batches();
      return;
    }
    phase("backward", true);
    if (last) begin_backward(fused_ && fused_->updates());
    passes[i].tape->backward_to(passes[i].begins[last_stage]);
    phase("backward", false);
  }
  pins.end_stage();
  phase("backward", true);
  for (std::size_t stage = last_stage; stage-- > 0;) {
    for (std::size_t i = 0; i < count; ++i) {
      gradients_->begin_micro_batch(i, i + 1 == count);
      passes[i].tape->backward_to(passes[i].begins[stage]);
    }
    pins.end_stage();
  }
  for (PassUnderWay& pass : passes) pass.tape->backward();  // nothing is left of it
  end_backward();
  phase("backward", false);
  sums.loss = feed.loss();
}

}  // namespace thimble
