// Matrix products of the emulated GPU: the CPU's, on the device's memory.
#include "core/device/cuda/emulated_gpu.h"
#include "core/ops/cuda/declare.h"

namespace thimble::cuda {

std::int64_t matmul_workspace_bytes(const MatmulSpec& s) {
  return kernels(Device{}).matmul_workspace_bytes(s);
}

void matmul(const MatmulSpec& s, const MatmulArgs& a) {
  const gpu::DeviceAccess access;
  kernels(Device{}).matmul(s, a);
}

}  // namespace thimble::cuda
