// The memory of one kind of device: how it is allocated, and how bytes get in and out. Only these
// copies cross between host and device; kernels of a device see only its own memory.
#pragma once

#include <cstdint>

#include "core/base/completion.h"
#include "core/device/device.h"

namespace thimble {

struct DeviceMemory {
  /// Allocates address space of `bytes`; throws SystemError if it is refused.
  void* (*allocate)(std::int64_t bytes);
  void (*release)(void* base, std::int64_t bytes);
  void (*fill)(void* at, int byte, std::int64_t bytes);
  /// Copies after everything that the calling thread has started on the device; done on return.
  void (*to_host)(void* host, const void* at, std::int64_t bytes);
  void (*from_host)(void* at, const void* host, std::int64_t bytes);
  /// Waits until everything that the calling thread has started there is done.
  void (*wait)();
  /// Starts a copy either way that runs beside the kernels, after those that the calling thread has
  /// started so far; `host` is from allocate_host. Nobody may touch the bytes until it is done: the
  /// host after wait(), kernels after follow().
  Completion (*start_to_host)(void* host, const void* at, std::int64_t bytes);
  Completion (*start_from_host)(void* at, const void* host, std::int64_t bytes);
  /// Pinned host memory, which this device copies to and from fastest (on a CPU, plain memory).
  void* (*allocate_host)(std::int64_t bytes);
  void (*release_host)(void* base, std::int64_t bytes);
};

/// Throws UserError if this build has no such device.
const DeviceMemory& device_memory(DeviceKind kind);

}  // namespace thimble
