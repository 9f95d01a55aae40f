#include "core/device/gpu.h"

#include <atomic>

#include "core/base/error.h"

namespace thimble {
namespace {

std::atomic<const GpuDriver*> registered{nullptr};

}  // namespace

void register_gpu(const GpuDriver& driver) {
  registered = &driver;
}

const GpuDriver* gpu_driver() {
  return registered;
}

int gpu_count() {
  const GpuDriver* driver = gpu_driver();
  return driver == nullptr ? 0 : driver->count();
}

GpuInfo choose_gpu(int local_rank) {
  const GpuDriver* driver = gpu_driver();
  if (driver == nullptr) {
    throw_user(
        "device = \"cuda\": this program was built without CUDA (cmake -DTHIMBLE_CUDA=ON); allowed "
        "here: cpu");
  }
  if (gpu_count() == 0)
    throw_user("device = \"cuda\": no GPU was found (nvidia-smi lists them); allowed here: cpu");
  driver->choose(local_rank % gpu_count());
  return driver->current();
}

}  // namespace thimble
