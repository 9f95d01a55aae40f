#include "compress/retention_model.h"

#include "compress/head_functions.h"
#include "compress/retention_labels.h"

namespace thimble {

// The heads of one pass over a micro-batch; it lives as long as the tape that its nodes are on.
class RetentionModel::Tap final : public LayerTap {
 public:
  Tap(const RetentionModel& owner, Context& ctx, const ModelInputs& inputs)
      : owner_(owner), ctx_(ctx), batch_(inputs.batch), losses_(inputs.carried) {
    const BackboneShape& shape = owner.shape();
    const auto layers = static_cast<float>(shape.layers_with_heads());
    const float each = 1 / (layers * static_cast<float>(shape.kv_heads));
    loss_ = {.labels = {},
             .weights = batch_.weights,
             .segment_start = batch_.segment_start,
             .sequences = batch_.sequences,
             .regression = each,
             .smoothness = static_cast<float>(owner.config().alpha) * each *
                           (owner.config().alpha_sum == SmoothnessSum::kLayers ? layers : 1),
             .grad_scale = inputs.grad_scale};
  }

  void before_rope(int layer, Var& q, Var& k, Var& v) override {
    const auto& heads = owner_.heads_[static_cast<std::size_t>(layer)];
    if (!heads) return;
    scores_ =
        retaining_scores(ctx_, {q.value, k.value, v.value}, *heads, owner_.shape().activation);
  }

  void after_rope(int layer, Var& q, Var& k, Var& /*v*/) override {
    if (!owner_.heads_[static_cast<std::size_t>(layer)]) return;
    ScoreLoss loss = loss_;
    loss.labels = retention_labels(ctx_.arena, {.q = q.value,
                                                .k = k.value,
                                                .is_answer = batch_.targets,
                                                .segment_start = batch_.segment_start,
                                                .sequences = batch_.sequences,
                                                .kv_heads = owner_.shape().kv_heads,
                                                .head_dim = owner_.shape().head_dim,
                                                .scale = owner_.shape().score_scale});
    add_score_loss(ctx_, std::exchange(scores_, {}), loss, losses_);
  }

 private:
  const RetentionModel& owner_;
  Context& ctx_;
  const BatchTensors& batch_;
  Tensor losses_;
  ScoreLoss loss_;
  Var scores_;  // of the layer that runs
};

RetentionModel::RetentionModel(const TrainableModel& of, const BackboneShape& backbone,
                               const CompressorConfig& settings)
    : CompressorModel(of, backbone, settings) {
  if (shape().layers_with_heads() == 0) {
    throw_user(
        "compressor.type = \"locret\": every layer of the model has a sliding window already");
  }
  for (int layer = 0; layer < shape().layers; ++layer) {
    heads_.emplace_back();
    if (!shape().has_heads(layer)) continue;
    const HeadShapes shapes = head_shapes(config(), shape(), layer);
    const Weight first = add_param(layer, shapes.first_name, shapes.first, true);
    heads_.back() = HeadWeights{first, add_param(layer, shapes.second_name, shapes.second, true)};
  }
}

Tensor RetentionModel::make_carried(Arena& arena, const BatchTensors& batch) const {
  const Tensor losses = Tensor::empty(arena, MemoryTag::kActivations, DType::kF32,
                                      Shape{batch.ids.numel()}, "losses of layers");
  ops::zero(losses);
  return losses;
}

void RetentionModel::prepare(Batch& batch) const {
  mark_answers(batch, config().answer_tokens);
}

Var RetentionModel::stage(Context& ctx, const ModelInputs& inputs, std::size_t index, Var x) const {
  if (index + 1 == num_stages()) return {.value = inputs.carried};
  const auto tap = std::make_shared<Tap>(*this, ctx, inputs);
  // Runs after the nodes of this stage, and lives until then.
  if (ctx.recording()) ctx.tape->record([tap](Tape&) {});
  ModelInputs tapped = inputs;
  tapped.tap = tap.get();
  x = model().stage(ctx, tapped, index, std::move(x));
  x.id = -1;  // of a model that is computed again the tape would want a gradient
  return x;
}

}  // namespace thimble
