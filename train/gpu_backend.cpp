#include "train/gpu_backend.h"

#include "core/device/cuda/runtime.h"
#include "core/ops/adapter_kernels.h"
#include "core/ops/cuda/declare.h"
#include "core/ops/cuda/variants.h"
#include "optim/elementwise_table.h"
#ifdef THIMBLE_NCCL
#include "parallel/cuda/nccl_communicator.h"
#endif

namespace thimble {

void register_gpu_backend() {
  register_gpu(gpu::driver());
  register_gpu_kernels(cuda::kernel_table());
  register_gpu_adapter_kernels(cuda::adapter_kernel_table());
  register_gpu_variant_kernels(cuda::variant_kernel_table());
  register_gpu_updates(cuda::kElementwise);
#ifdef THIMBLE_NCCL
  register_gpu_communicator([](Communicator& control) {
    return make_nccl_communicator(control, std::chrono::minutes(10));
  });
#endif
}

}  // namespace thimble
