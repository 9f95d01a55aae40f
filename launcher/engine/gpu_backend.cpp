#include "launcher/engine/gpu_backend.h"

#include "core/device/cuda/runtime.h"
#include "core/ops/cuda/declare.h"
#include "optim/elementwise_table.h"

namespace thimble {

void register_gpu_backend() {
  register_gpu(gpu::driver());
  register_gpu_kernels(cuda::kernel_table());
  register_gpu_updates(cuda::kElementwise);
}

}  // namespace thimble
