// The GPU's kernels of variant_kernels.h.
#pragma once

#include "core/ops/variant_kernels.h"

namespace thimble::cuda {

/// The table of all of them.
const VariantKernels& variant_kernel_table();

/// Those that share their arithmetic with the kernels of norm.cu.
void unit_rms_norm(const RmsNormArgs& args);
void unit_rms_norm_grad(const RmsNormGradArgs& args);
void partial_rope(const RopeArgs& args, std::int64_t head_stride);

}  // namespace thimble::cuda
