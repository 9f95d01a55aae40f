#include "core/nn/state_residency.h"

#include "core/ops/ops.h"

namespace thimble {

void ResidentState::create(const StateKey& key, MemoryTag tag, DType dtype, const Shape& shape) {
  Tensor tensor = Tensor::empty(arena_, tag, dtype, shape, key.slot);
  ops::zero(tensor);
  TH_CHECK(tensors_.emplace(key, std::move(tensor)).second, "state {} twice", key.slot);
}

const Tensor& ResidentState::at(const StateKey& key) const {
  const auto found = tensors_.find(key);
  TH_CHECK(found != tensors_.end(), "no state {} of parameter {}", key.slot,
           static_cast<int>(key.param));
  return found->second;
}

}  // namespace thimble
