// Training of retaining heads.
#pragma once

#include <optional>
#include <vector>

#include "compress/compressor_model.h"
#include "compress/retaining_heads.h"

namespace thimble {

/// Each layer's loss is its own: no gradient flows through the model, whose activations are not
/// kept, and its LM head is not run. loss = mean over labelled positions, layers and heads of the
/// smooth L1 distance to retention_labels(), plus the smoothness of CompressorConfig.
class RetentionModel final : public CompressorModel {
 public:
  RetentionModel(const TrainableModel& model, const BackboneShape& shape,
                 const CompressorConfig& config);

  /// f32 [N] of zeros: the losses of the layers so far (tag activations).
  Tensor make_carried(Arena& arena, const BatchTensors& batch) const override;
  void prepare(Batch& batch) const override;
  Var stage(Context& ctx, const ModelInputs& inputs, std::size_t index, Var x) const override;

 private:
  class Tap;
  std::vector<std::optional<HeadWeights>> heads_;  // by layer
};

}  // namespace thimble
