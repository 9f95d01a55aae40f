// Kernels of a GPU called on tensors of the host: their bytes are copied to the device's memory
// before, and back after.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "core/device/gpu.h"
#include "core/ops/ops.h"
#include "train/gpu_backend.h"

namespace thimble {

class DeviceMirror {
 public:
  DeviceMirror() { register_gpu_backend(); }

  /// Memory of the device with the bytes of `host`, the same until fetch().
  template <typename T = void>
  T* at(void* host, std::int64_t bytes) {
    if (!arena_) arena_ = Arena::make_gpu(kBytes, 0);
    const auto found = twins_.find(host);
    if (found != twins_.end()) return static_cast<T*>(found->second.raw());
    const Tensor twin = Tensor::empty(*arena_, MemoryTag::kWorkspace, DType::kU8, Shape{bytes});
    ops::from_host(twin, host);
    if (bytes > 0) twins_.emplace(host, twin);
    return static_cast<T*>(twin.raw());
  }
  template <typename T = void>
  T* at(const Tensor& host) {
    return at<T>(host.raw(), host.nbytes());
  }
  template <typename T>
  T* at(std::vector<T>& host) {
    return at<T>(host.data(), static_cast<std::int64_t>(host.size() * sizeof(T)));
  }
  /// Everything back, once all kernels are done.
  void fetch() {
    for (const auto& [host, twin] : twins_) ops::to_host(host, twin);
    twins_.clear();
  }

 private:
  static constexpr std::int64_t kBytes = 1 << 27;
  std::unique_ptr<Arena> arena_;
  std::map<void*, Tensor> twins_;
};

}  // namespace thimble
