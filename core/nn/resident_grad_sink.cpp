#include "core/nn/resident_grad_sink.h"

namespace thimble {

GradTarget ResidentGradSink::accumulate_into(ParamId id) {
  const auto index = static_cast<std::size_t>(id);
  Tensor& grad = grads_.at(index);
  if (grad.defined()) return {grad, true};
  const ParamInfo& info = params_.info(id);
  grad =
      Tensor::empty(arena_, MemoryTag::kGradients, dtypes_[index], info.storage_shape(), info.name);
  return {grad, false};
}

void ResidentGradSink::release_all() {
  for (Tensor& grad : grads_) grad = {};
}

}  // namespace thimble
