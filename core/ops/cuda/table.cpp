// The kernel table of GPUs.
#include "core/ops/cuda/declare.h"

namespace thimble::cuda {

const KernelTable& kernel_table() {
  static const KernelTable kTable = [] {
    KernelTable table("gpu");
#define THIMBLE_FILL(kernel, ...) table.kernel = kernel;
    THIMBLE_GPU_KERNELS(THIMBLE_FILL)
#undef THIMBLE_FILL
#define THIMBLE_FILL(result, function, ...) table.function = function;
    THIMBLE_KERNEL_SIZES(THIMBLE_FILL)
#undef THIMBLE_FILL
    return table;
  }();
  return kTable;
}

}  // namespace thimble::cuda
