// The GPU's ops beside the CPU's, on the same tensors of the host.
#pragma once

#include <gtest/gtest.h>

#include "core/ops/cuda/declare.h"
#include "core/ops/ops.h"
#include "tests/core/expect_close.h"
#include "tests/gpu/device_mirror.h"

namespace thimble {

class GpuOpKernels : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (gpu_count() == 0) GTEST_SKIP() << "no GPU";
  }
  Tensor empty(const Shape& shape, DType dtype) {
    return Tensor::empty(*arena_, MemoryTag::kWorkspace, dtype, shape);
  }
  Tensor empty(const Shape& shape) { return empty(shape, GetParam()); }
  Tensor random(const Shape& shape, std::uint64_t seed, float scale = 1.0f) {
    return random(shape, seed, scale, GetParam());
  }
  Tensor random(const Shape& shape, std::uint64_t seed, float scale, DType dtype) {
    const Tensor f = empty(shape, DType::kF32), t = empty(shape, dtype);
    const CounterRandom values(seed, RandomPurpose::kInit);
    for (std::int64_t i = 0; i < f.numel(); ++i)
      f.data<float>()[i] = scale * values.normal(static_cast<std::uint64_t>(i));
    ops::cast(t, f);
    return t;
  }
  Tensor copy_of(const Tensor& t) {
    const Tensor copy = empty(t.shape(), t.dtype());
    ops::copy(copy, t);
    return copy;
  }
  Tensor ints(const std::vector<std::int32_t>& values) {
    const Tensor t = empty(Shape{static_cast<std::int64_t>(values.size())}, DType::kI32);
    std::copy(values.begin(), values.end(), t.data<std::int32_t>());
    return t;
  }
  const KernelTable& cpu() const { return kernels(arena_->device()); }
  const KernelTable& table(bool gpu) const { return gpu ? cuda::kernel_table() : cpu(); }
  double tolerance() const { return GetParam() == DType::kBF16 ? 1e-2 : 2e-5; }
  void expect_same(const Tensor& got, const Tensor& want, const char* what) {
    expect_close(values_of(got), values_of(want), 0, what);
  }
  void expect_near(const Tensor& got, const Tensor& want, const char* what) {
    expect_close(values_of(got), values_of(want), tolerance(), what);
  }

  // Where the kernels of one side see a tensor.
  template <typename T = void>
  T* at(bool gpu, const Tensor& t) {
    return gpu ? gpu_.at<T>(t) : static_cast<T*>(t.raw());
  }

  std::unique_ptr<Arena> arena_ = Arena::make_cpu(1 << 27);
  DeviceMirror gpu_;
};

}  // namespace thimble
