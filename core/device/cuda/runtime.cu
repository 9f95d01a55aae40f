#include <map>
#include <mutex>

#include "core/base/error.h"
#include "core/device/cuda/runtime.h"

namespace thimble::gpu {
namespace {

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw_system("CUDA: {}: {}", what, cudaGetErrorString(error));
}

}  // namespace

Stream compute_stream() {
  thread_local Stream stream = [] {
    Stream made = nullptr;
    check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return made;
  }();
  return stream;
}

const void* constant_bytes(const void* host, std::size_t bytes) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, void*> copies;
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  const std::scoped_lock lock(mutex);
  void*& copy = copies[{device, host}];
  if (copy == nullptr) {
    check(cudaMalloc(&copy, bytes), "cudaMalloc");
    check(cudaMemcpy(copy, host, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  return copy;
}

}  // namespace thimble::gpu
