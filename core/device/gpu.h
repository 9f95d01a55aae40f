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

/// Work of a GPU that is recorded once and started as a whole.
struct GpuGraphs {
  /// What the calling thread starts there from now on is recorded and not done; whatever waits for
  /// the GPU fails.
  void (*begin)();
  /// The record, or null if it was spoilt.
  void* (*end)();
  void (*launch)(void* graph);
  void (*release)(void* graph);
};

struct GpuDriver {
  const DeviceMemory* memory;
  const GpuGraphs* graphs;
  /// How many there are; touches none of them, and never throws.
  int (*count)();
  /// Makes the calling thread use number `index`. Throws SystemError if it cannot.
  void (*choose)(int index);
  /// Of the one that the calling thread uses, by default number 0; takes some of its memory.
  GpuInfo (*current)();
};

/// Once, before anything is made on a GPU.
void register_gpu(const GpuDriver& driver);
/// Null: this build has none.
const GpuDriver* gpu_driver();
/// 0 without a driver too.
int gpu_count();

/// The GPU of the calling process, which is number `local_rank` of its host: they take turns.
/// Throws UserError if there is none.
GpuInfo choose_gpu(int local_rank);

}  // namespace thimble
