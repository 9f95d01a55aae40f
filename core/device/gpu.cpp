#include "core/device/gpu.h"

#include <atomic>

#include "core/base/error.h"
#include "core/base/numeric.h"

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

GpuInfo choose_gpu(int local_rank) {
  const GpuDriver* driver = gpu_driver();
  if (driver == nullptr) {
    throw_user(
        "device = \"cuda\": this program was built without CUDA (cmake -DTHIMBLE_CUDA=ON); allowed "
        "here: cpu");
  }
  const std::vector<GpuInfo> gpus = driver->list();
  if (gpus.empty())
    throw_user("device = \"cuda\": no GPU was found (nvidia-smi lists them); allowed here: cpu");
  const int index = local_rank % narrow<int>(std::ssize(gpus));
  driver->choose(index);
  return gpus[static_cast<std::size_t>(index)];
}

}  // namespace thimble
