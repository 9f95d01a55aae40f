// Matrix products of the emulated GPU: the CPU's, on the device's memory.
#include "core/base/error.h"
#include "core/device/cuda/emulated_gpu.h"
#include "core/ops/cuda/declare.h"

namespace thimble::cuda {

void matmul(const MatmulSpec& s, const MatmulArgs& a) {
  TH_CHECK(kernels(Device{}).matmul_workspace_bytes(s) <= kMatmulWorkspaceBytes);
  const gpu::DeviceAccess access;
  kernels(Device{}).matmul(s, a);
}

}  // namespace thimble::cuda
