// The GPUs of this machine, behind whatever drives them: CUDA, or the emulator of the tests. A
// build without either has no driver.
#pragma once

#include <string>
#include <vector>

#include "core/device/device_memory.h"

namespace thimble {

struct GpuInfo {
  std::string name;
  std::int64_t total_bytes = 0, free_bytes = 0;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  double memory_bytes_per_s = 0;  // peak, from its clock and width
};

struct GpuDriver {
  const DeviceMemory* memory;
  /// Empty if there are none; never throws.
  std::vector<GpuInfo> (*list)();
  /// Makes the calling thread use this one of list().
  void (*choose)(int index);
};

/// Once, before anything is made on a GPU.
void register_gpu(const GpuDriver& driver);
/// Null: this build has none.
const GpuDriver* gpu_driver();

/// The GPU of the calling process, which is number `local_rank` of its host: they take turns.
/// Throws UserError if there is none.
GpuInfo choose_gpu(int local_rank);

}  // namespace thimble
