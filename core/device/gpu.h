// The GPUs of this machine, behind whatever drives them: CUDA, or the emulator of the tests. A
// build without either has no driver.
#pragma once

#include <array>
#include <string>

#include "core/device/device_memory.h"

namespace thimble {

struct GpuInfo {
  std::string name;
  std::int64_t total_bytes = 0, free_bytes = 0;
  int major = 0, minor = 0;  // compute capability
  std::array<std::uint8_t, 16> uuid{};
};

/// A graph: work of a GPU that is recorded once and started as a whole.
struct GpuGraphs {
  /// From now on, what the calling thread starts there is recorded and not done; waiting for the
  /// GPU fails.
  void (*begin)();
  /// Ends recording: the record, or null if recording failed.
  void* (*end)();
  void (*launch)(void* graph);
  void (*release)(void* graph);
};

struct GpuDriver {
  const DeviceMemory* memory;
  const GpuGraphs* graphs;
  /// The number of GPUs; touches none of them, and never throws.
  int (*count)();
  /// Makes the calling thread use number `index`. Throws SystemError if it cannot.
  void (*choose)(int index);
  /// The GPU that the calling thread uses, by default number 0; the call takes some of its memory.
  GpuInfo (*current)();
};

/// Sets the driver. Called once, before anything is allocated on a GPU.
void register_gpu(const GpuDriver& driver);
/// The driver; null if this build has none.
const GpuDriver* gpu_driver();
/// The number of GPUs; 0 without a driver too.
int gpu_count();

/// Chooses the GPU of the calling process, whose local rank on its node is `local_rank`: GPUs are
/// dealt out in turn.
/// Throws UserError if there is none.
GpuInfo choose_gpu(int local_rank);

}  // namespace thimble
