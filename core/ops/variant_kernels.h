// The kernels that only some families of models need, in a table beside that of kernel_table.h and
// made in the same way. Pointers and sizes are as there.
#pragma once

#include "core/ops/kernel_table.h"

namespace thimble {

/// out = factor * x, or factor * tanh(x / factor); `out` may be `x`.
struct ScaleArgs {
  std::int64_t n = 0;
  DType dtype = DType::kF32;
  float factor = 1;
  const void* x = nullptr;
  void* out = nullptr;
};

// clang-format off

///   soft_cap      factor * tanh(x / factor)
///   geglu         gelu(gate) * up, with the tanh form of gelu
///   unit_rms_norm rms_norm whose factors are 1 + w; the gradient of w is that of the factors
///   partial_rope  rope of the first head_dim of every head_stride elements
#define THIMBLE_VARIANT_KERNELS(KERNEL) \
  KERNEL(scale, const ScaleArgs& args) \
  KERNEL(soft_cap, const ScaleArgs& args) \
  KERNEL(geglu, const ElementwiseArgs& args) \
  KERNEL(geglu_grad, const SwigluGradArgs& args) \
  KERNEL(unit_rms_norm, const RmsNormArgs& args) \
  KERNEL(unit_rms_norm_grad, const RmsNormGradArgs& args) \
  KERNEL(partial_rope, const RopeArgs& args, std::int64_t head_stride)

struct VariantKernels {
  explicit VariantKernels(const char* backend) : name(backend) {}

  const char* name;
#define THIMBLE_FIELD(kernel, ...) Kernel<void(__VA_ARGS__)> kernel{#kernel, name};
  THIMBLE_VARIANT_KERNELS(THIMBLE_FIELD)
#undef THIMBLE_FIELD
};

// clang-format on

/// The table of a device.
const VariantKernels& variant_kernels(Device device);

/// Makes `table`, which must outlive all use, that of DeviceKind::kGpu.
void register_gpu_variant_kernels(const VariantKernels& table);

}  // namespace thimble
