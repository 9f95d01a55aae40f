// What kernels need of the device they run on.
#pragma once

#include <span>

#include "core/device/cuda/kernel_language.h"
#include "core/device/gpu.h"

namespace thimble::gpu {

/// The stream that the calling thread's kernels go to.
Stream compute_stream();

/// Clears or copies bytes of the device, in the order of the stream.
void zero(void* dst, std::int64_t bytes);
void copy(void* dst, const void* src, std::int64_t bytes);

#ifdef __CUDACC__
/// Whether the event has been reached or has failed, so that waiting for it does not block.
bool has_happened(cudaEvent_t event) noexcept;
#endif

/// The GPU driver that is linked into this build.
const GpuDriver& driver();

/// A copy, in memory of the device, of a table that lives as long as the program; made once. Small
/// tables only: they are not the arena's.
const void* constant_bytes(const void* host, std::size_t bytes);
template <typename T>
const T* constant(std::span<const T> host) {
  return static_cast<const T*>(constant_bytes(host.data(), host.size_bytes()));
}

}  // namespace thimble::gpu
