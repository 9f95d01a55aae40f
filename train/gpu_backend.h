// The GPU, as the engine knows it: DeviceKind::kGpu.
#pragma once

namespace thimble {

/// Registers memory, kernels and updates of the GPU that is linked: CUDA's, or the emulator's.
/// Once, before anything is made there.
void register_gpu_backend();

}  // namespace thimble
