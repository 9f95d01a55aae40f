// A frozen model with a compressor of its KV cache beside it, as training sees it: the model's own
// parameters, all frozen, and those of the compressor, each in the block of its layer. It taps the
// model's attention and knows nothing else of it.
#pragma once

#include <memory>
#include <vector>

#include "compress/compressor_config.h"
#include "core/nn/trainable_model.h"

namespace thimble {

/// What all compressors have in common.
class CompressorModel : public TrainableModel {
 public:
  const CompressorConfig& config() const { return config_; }
  const BackboneShape& shape() const { return shape_; }
  /// The compressor's own parameters, in the order of layers, trained or not.
  const std::vector<ParamId>& own() const { return own_; }
  bool is_own(ParamId id) const { return static_cast<std::int32_t>(id) >= first_own_; }
  /// Of an own parameter.
  BlockId block_of(ParamId id) const;
  std::int64_t trained_elements() const;

  const ParamTable& params() const override { return params_; }
  std::vector<std::vector<ParamId>> block_params() const override;
  std::vector<int> gathers_per_micro_batch() const override;
  bool is_summed_in_backward(ParamId id) const override {
    return !is_own(id) && model_.is_summed_in_backward(id);
  }
  std::vector<NamedSize> linear_sizes() const override { return model_.linear_sizes(); }
  std::vector<Tensor> make_tables(Arena& arena, std::int64_t seq_len) const override {
    return model_.make_tables(arena, seq_len);
  }
  std::size_t num_stages() const override { return model_.num_stages(); }

 protected:
  /// The model must outlive it. Throws UserError, in terms of "[compressor]", for a model whose
  /// cache cannot be compressed so.
  CompressorModel(const TrainableModel& model, const BackboneShape& shape,
                  const CompressorConfig& config);
  Weight add_param(int layer, const std::string& name, const Shape& shape, bool trainable);
  const TrainableModel& model() const { return model_; }

 private:
  const TrainableModel& model_;
  BackboneShape shape_;
  CompressorConfig config_;
  ParamTable params_;
  std::int32_t first_own_;
  std::vector<BlockId> layer_blocks_;  // by layer
  std::vector<ParamId> own_;
};

/// Of the kind that the configuration says. Throws UserError as its constructor does.
std::unique_ptr<CompressorModel> make_compressor_model(const TrainableModel& model,
                                                       const BackboneShape& shape,
                                                       const CompressorConfig& config);

}  // namespace thimble
