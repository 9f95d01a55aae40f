#include "compress/compressor_model.h"

#include <algorithm>

#include "compress/matryoshka_model.h"
#include "compress/retention_model.h"

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

CompressorModel::CompressorModel(const TrainableModel& model, const BackboneShape& shape,
                                 const CompressorConfig& config)
    : model_(model),
      shape_(shape),
      config_(config),
      params_(model.params()),
      first_own_(model.params().size()),
      layer_blocks_(blocks_of_layers(model, shape.layers)) {
  for (const ParamId id : params_.ids()) params_.set_trainable(id, false);
}

Weight CompressorModel::add_param(int layer, const std::string& name, const Shape& shape,
                                  bool trainable) {
  const ParamId id = params_.add({.name = name,
                                  .shape = shape,
                                  .role = shape.rank() == 1 ? ParamRole::kBias : ParamRole::kMatrix,
                                  .trainable = trainable,
                                  .layer = layer});
  own_.push_back(id);
  return {id, layer_blocks_[static_cast<std::size_t>(layer)]};
}

BlockId CompressorModel::block_of(ParamId id) const {
  TH_CHECK(is_own(id));
  return layer_blocks_[static_cast<std::size_t>(params_.info(id).layer)];
}

std::int64_t CompressorModel::trained_elements() const {
  std::int64_t elements = 0;
  for (const ParamId id : own_)
    elements += params_.info(id).trainable ? params_.info(id).shape.numel() : 0;
  return elements;
}

std::vector<std::vector<ParamId>> CompressorModel::block_params() const {
  std::vector<std::vector<ParamId>> blocks = model_.block_params();
  for (const ParamId id : own_) blocks[static_cast<std::size_t>(block_of(id))].push_back(id);
  return blocks;
}

std::vector<int> CompressorModel::gathers_per_micro_batch() const {
  std::vector<int> gathers = model_.gathers_per_micro_batch();
  gathers.resize(static_cast<std::size_t>(params_.size()), 2);  // forward and backward
  return gathers;
}

std::unique_ptr<CompressorModel> make_compressor_model(const TrainableModel& model,
                                                       const BackboneShape& shape,
                                                       const CompressorConfig& config) {
  if (config.kind == CompressorKind::kMatryoshka)
    return std::make_unique<MatryoshkaModel>(model, shape, config);
  return std::make_unique<RetentionModel>(model, shape, config);
}

}  // namespace thimble
