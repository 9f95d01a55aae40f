#include "compress/compressor_model.h"

#include <algorithm>

#include "compress/head_functions.h"
#include "compress/retention_labels.h"

namespace thimble {
namespace {

// The blocks of a model's layers: of each, the one that its parameters are in.
std::vector<BlockId> blocks_of_layers(const TrainableModel& model, std::int64_t layers) {
  std::vector<BlockId> found(static_cast<std::size_t>(layers), -1);
  const std::vector<std::vector<ParamId>> blocks = model.block_params();
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    for (const ParamId id : blocks[b]) {
      const int layer = model.params().info(id).layer;
      if (layer >= 0) found.at(static_cast<std::size_t>(layer)) = static_cast<BlockId>(b);
    }
  }
  for (const BlockId block : found) TH_CHECK(block >= 0, "a layer without parameters");
  return found;
}

}  // namespace

// The heads of one pass over a micro-batch; it lives as long as the tape that its nodes are on.
class CompressorModel::Tap final : public LayerTap {
 public:
  Tap(const CompressorModel& owner, Context& ctx, const ModelInputs& inputs)
      : owner_(owner), ctx_(ctx), batch_(inputs.batch), losses_(inputs.carried) {
    const BackboneShape& shape = owner.shape_;
    const auto layers = static_cast<float>(shape.layers_with_heads());
    const float each = 1 / (layers * static_cast<float>(shape.kv_heads));
    loss_ = {.labels = {},
             .weights = batch_.weights,
             .segment_start = batch_.segment_start,
             .sequences = batch_.sequences,
             .regression = each,
             .smoothness = static_cast<float>(owner.config_.alpha) * each *
                           (owner.config_.alpha_sum == SmoothnessSum::kLayers ? layers : 1),
             .grad_scale = inputs.grad_scale};
  }

  void before_rope(int layer, Var& q, Var& k, Var& v) override {
    const auto& heads = owner_.heads_[static_cast<std::size_t>(layer)];
    if (!heads) return;
    scores_ = retaining_scores(ctx_, {q.value, k.value, v.value}, *heads, owner_.shape_.activation);
  }

  void after_rope(int layer, Var& q, Var& k, Var& /*v*/) override {
    if (!owner_.heads_[static_cast<std::size_t>(layer)]) return;
    ScoreLoss loss = loss_;
    loss.labels = retention_labels(ctx_.arena, {.q = q.value,
                                                .k = k.value,
                                                .is_answer = batch_.targets,
                                                .segment_start = batch_.segment_start,
                                                .sequences = batch_.sequences,
                                                .kv_heads = owner_.shape_.kv_heads,
                                                .head_dim = owner_.shape_.head_dim,
                                                .scale = owner_.shape_.score_scale});
    add_score_loss(ctx_, std::exchange(scores_, {}), loss, losses_);
  }

 private:
  const CompressorModel& owner_;
  Context& ctx_;
  const BatchTensors& batch_;
  Tensor losses_;
  ScoreLoss loss_;
  Var scores_;  // of the layer that runs
};

CompressorModel::CompressorModel(const TrainableModel& model, const BackboneShape& shape,
                                 const CompressorConfig& config)
    : model_(model),
      shape_(shape),
      config_(config),
      params_(model.params()),
      first_own_(model.params().size()),
      layer_blocks_(blocks_of_layers(model, shape.layers)) {
  if (shape_.layers_with_heads() == 0) {
    throw_user("compressor.type = \"{}\": every layer of the model has a sliding window already",
               compressor_kind_name(config_.kind));
  }
  for (const ParamId id : params_.ids()) params_.set_trainable(id, false);
  for (int layer = 0; layer < shape_.layers; ++layer) {
    heads_.emplace_back();
    if (!shape_.has_heads(layer)) continue;
    const HeadShapes shapes = head_shapes(config_, shape_, layer);
    const Weight first = add_matrix(layer, shapes.first_name, shapes.first);
    heads_.back() = HeadWeights{first, add_matrix(layer, shapes.second_name, shapes.second)};
  }
}

Weight CompressorModel::add_matrix(int layer, const std::string& name, const Shape& shape) {
  const ParamId id = params_.add({.name = name, .shape = shape, .layer = layer});
  trained_.push_back(id);
  return {id, layer_blocks_[static_cast<std::size_t>(layer)]};
}

BlockId CompressorModel::block_of(ParamId id) const {
  TH_CHECK(is_own(id));
  return layer_blocks_[static_cast<std::size_t>(params_.info(id).layer)];
}

std::int64_t CompressorModel::trained_elements() const {
  std::int64_t elements = 0;
  for (const ParamId id : trained_) elements += params_.info(id).shape.numel();
  return elements;
}

std::vector<std::vector<ParamId>> CompressorModel::block_params() const {
  std::vector<std::vector<ParamId>> blocks = model_.block_params();
  for (const ParamId id : trained_) blocks[static_cast<std::size_t>(block_of(id))].push_back(id);
  return blocks;
}

std::vector<int> CompressorModel::gathers_per_micro_batch() const {
  std::vector<int> gathers = model_.gathers_per_micro_batch();
  gathers.resize(static_cast<std::size_t>(params_.size()), 2);  // forward and backward
  return gathers;
}

Tensor CompressorModel::make_carried(Arena& arena, const BatchTensors& batch) const {
  const Tensor losses = Tensor::empty(arena, MemoryTag::kActivations, DType::kF32,
                                      Shape{batch.ids.numel()}, "losses of layers");
  ops::zero(losses);
  return losses;
}

void CompressorModel::prepare(Batch& batch) const {
  mark_answers(batch, config_.answer_tokens);
}

Var CompressorModel::stage(Context& ctx, const ModelInputs& inputs, std::size_t index,
                           Var x) const {
  if (index + 1 == num_stages()) return {.value = inputs.carried};
  const auto tap = std::make_shared<Tap>(*this, ctx, inputs);
  // Runs after the nodes of this stage, and lives until then.
  if (ctx.recording()) ctx.tape->record([tap](Tape&) {});
  ModelInputs tapped = inputs;
  tapped.tap = tap.get();
  x = model_.stage(ctx, tapped, index, std::move(x));
  x.id = -1;  // of a model that is computed again the tape would want a gradient
  return x;
}

}  // namespace thimble
