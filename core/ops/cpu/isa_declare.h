// Declarations of the kernels of one instruction set; included by the files that define them and by
// the table.
#pragma once

#include "core/ops/cpu/isa_kernels.h"

namespace thimble::THIMBLE_ISA {

THIMBLE_ISA_KERNELS(THIMBLE_DECLARE_KERNEL)
THIMBLE_ISA_PARTS(THIMBLE_DECLARE_SIZE)

}  // namespace thimble::THIMBLE_ISA
