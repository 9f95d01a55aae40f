// The CPU's kernels that are compiled once, whatever the instruction set, and what they say about
// sizes. cpu_kernels.cpp puts them into the kernel table.
#pragma once

#include "core/ops/kernel_table.h"

namespace thimble::cpu {

THIMBLE_PLAIN_KERNELS(THIMBLE_DECLARE_KERNEL)
THIMBLE_CPU_ONLY_KERNELS(THIMBLE_DECLARE_KERNEL)
THIMBLE_KERNEL_SIZES(THIMBLE_DECLARE_SIZE)

}  // namespace thimble::cpu
