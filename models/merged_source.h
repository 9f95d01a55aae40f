// The weights of a model into which adapters were merged.
#pragma once

#include "models/adapter_source.h"

namespace thimble {

/// One adapter to be merged.
struct MergedAdapter {
  std::filesystem::path directory;
  double weight = 1;
};

/// The weights of a model with adapters merged into them, in f32.
class MergedSource final : public TensorSource {
 public:
  /// Throws UserError for an adapter that is not one of this model, for several of which one is not
  /// a plain LoRA, and for a weight other than 1 of one that is none.
  MergedSource(Arena& arena, const ModelConfig& config, std::unique_ptr<TensorSource> base,
               const std::vector<MergedAdapter>& adapters);
  void read(const ParamInfo& info, Slice slice, const Tensor& dst) override;

 private:
  struct Part {
    MergedAdapter from;
    std::unique_ptr<Transformer> model;
    std::unique_ptr<AdapterSource> source;
  };
  // What one adapter does to one matrix, f32.
  struct Change {
    Tensor a, b;  // [r, in] and [out, r], b with the scale in it
    Tensor magnitude, squares;
    Tensor input_scale, output_scale;
  };
  Tensor load(Part& part, Weight weight);
  void scale_bias(Part& part, const ParamInfo& info, Slice slice, const Tensor& rows);
  void load_shared(Part& part, const AdaptedMatrix& matrix, Change& change);
  Change& change_of(Part& part, const AdaptedMatrix& matrix);
  void measure(Change& change, const ParamInfo& info);
  void apply(const Change& change, const ParamInfo& info, Slice slice, const Tensor& rows);

  Arena& arena_;
  std::unique_ptr<TensorSource> base_;
  std::vector<Part> parts_;
  std::map<const AdaptedMatrix*, Change> changes_;
};

}  // namespace thimble
