// Gradients of one process, kept in memory from their first contribution until the optimizer has
// used them.
#pragma once

#include <vector>

#include "core/autograd/grad_sink.h"
#include "core/nn/param.h"

namespace thimble {

class ResidentGradSink final : public GradSink {
 public:
  /// dtypes: the dtype of each parameter's gradient, by id.
  ResidentGradSink(Arena& arena, const ParamTable& params, std::vector<DType> dtypes)
      : arena_(arena), params_(params), dtypes_(std::move(dtypes)), grads_(dtypes_.size()) {}

  bool wants(ParamId id) const override { return params_.info(id).trainable; }
  GradTarget accumulate_into(ParamId id) override;
  void complete(ParamId) override {}

  /// The gradient accumulated since the last release; undefined if nothing flowed into the
  /// parameter.
  const Tensor& grad(ParamId id) const { return grads_.at(static_cast<std::size_t>(id)); }
  void release(ParamId id) { grads_.at(static_cast<std::size_t>(id)) = {}; }
  void release_all();

 private:
  Arena& arena_;
  const ParamTable& params_;
  std::vector<DType> dtypes_;
  std::vector<Tensor> grads_;
};

}  // namespace thimble
