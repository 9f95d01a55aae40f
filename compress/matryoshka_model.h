// Training of channel bases against the model itself.
#pragma once

#include <vector>

#include "compress/channel_projection.h"
#include "compress/compressor_model.h"

namespace thimble {

/// Keys after RoPE and values go through the first r channels of their bases and back. While it
/// trains, r is drawn for every micro-batch, layer, and for keys and values: i/8 of the channels,
/// i = 1 .. 8; an evaluation takes the ranks of the configuration. loss = kTeacherShare of the
/// divergence from the frozen model without bases, a second pass over the same weights, and the
/// rest of the targets. Ref: Lin et al. 2024, "MatryoshkaKV", sections 3.2 and 3.3.
class MatryoshkaModel final : public CompressorModel {
 public:
  static constexpr float kTeacherShare = 0.25f;

  MatryoshkaModel(const TrainableModel& model, const BackboneShape& shape,
                  const CompressorConfig& config);

  struct LayerBases {
    BasisWeights keys, values;
  };
  const std::vector<LayerBases>& bases() const { return bases_; }
  std::vector<int> gathers_per_micro_batch() const override;
  Var stage(Context& ctx, const ModelInputs& inputs, std::size_t index, Var x) const override;

 private:
  class Tap;
  BasisWeights add_basis(int layer, char of);
  Tensor teacher_hidden(Context& ctx, const ModelInputs& inputs) const;

  std::vector<LayerBases> bases_;  // by layer
};

}  // namespace thimble
