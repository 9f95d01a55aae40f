// The runtime of the emulator: the device's memory is the host's.
#include "core/device/cuda/runtime.h"

namespace thimble::gpu {

Stream compute_stream() {
  return {};
}

const void* constant_bytes(const void* host, std::size_t) {
  return host;
}

}  // namespace thimble::gpu
