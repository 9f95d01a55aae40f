// What the front ends of the kernels check.
#pragma once

#include <initializer_list>
#include <string_view>

#include "core/ops/kernel_table.h"
#include "core/tensor/tensor.h"

namespace thimble::ops {

inline const KernelTable& table_of(const Tensor& x) {
  return kernels(x.device());
}

inline void check_same_device(std::initializer_list<const Tensor*> tensors) {
  const Device device = (*tensors.begin())->device();
  for (const Tensor* t : tensors) {
    TH_CHECK(t->device() == device, "tensors on {} and {}", device_name(device),
             device_name(t->device()));
  }
}

inline void check_shape(const Tensor& t, const Shape& shape) {
  TH_CHECK(t.shape() == shape, "{} where {} is needed", t.shape().str(), shape.str());
}

inline void check_dtype(const Tensor& t, DType dtype) {
  TH_CHECK(t.dtype() == dtype, "{} where {} is needed", dtype_name(t.dtype()), dtype_name(dtype));
}

// Same dtype and shape, dense.
inline void check_alike(std::initializer_list<const Tensor*> tensors) {
  check_same_device(tensors);
  const Tensor& first = **tensors.begin();
  for (const Tensor* t : tensors) {
    check_shape(*t, first.shape());
    check_dtype(*t, first.dtype());
    TH_CHECK(t->is_contiguous());
  }
}

inline Tensor workspace(Arena& arena, std::int64_t bytes, std::string_view label) {
  return Tensor::empty(arena, MemoryTag::kWorkspace, DType::kU8, Shape{bytes}, label);
}

}  // namespace thimble::ops
