// The table of one instruction set's kernels.
#include "core/ops/cpu/isa_declare.h"
#include "core/ops/fp8_math.h"

namespace thimble::THIMBLE_ISA {

const IsaKernels& isa_kernels() {
  static constexpr IsaKernels kTable{
#define THIMBLE_FILL(kernel, ...) .kernel = kernel,
      THIMBLE_ISA_KERNELS(THIMBLE_FILL)
#undef THIMBLE_FILL
#define THIMBLE_FILL(result, part, ...) .part = part,
          THIMBLE_ISA_PARTS(THIMBLE_FILL)
#undef THIMBLE_FILL
  };
  return kTable;
}

}  // namespace thimble::THIMBLE_ISA
