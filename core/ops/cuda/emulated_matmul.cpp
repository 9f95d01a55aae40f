// Matrix products of the emulated GPU: the CPU's, on the device's memory.
#include <vector>

#include "core/device/cuda/emulated_gpu.h"
#include "core/device/cuda/emulator.h"
#include "core/ops/cuda/declare.h"

namespace thimble::cuda {

void matmul(const MatmulSpec& s, const MatmulArgs& a) {
  gpu::start([=] {
    const KernelTable& cpu = kernels(Device{});
    // Its needs are not those that are planned for a GPU.
    std::vector<std::byte> scratch(static_cast<std::size_t>(cpu.matmul_workspace_bytes(s)));
    MatmulArgs here = a;
    here.workspace = scratch.data();
    const gpu::DeviceAccess access;
    cpu.matmul(s, here);
  });
}

}  // namespace thimble::cuda
