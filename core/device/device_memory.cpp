#include "core/device/device_memory.h"

#include <sys/mman.h>

#include <cstring>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/device/gpu.h"

namespace thimble {
namespace {

std::size_t size_of(std::int64_t bytes) {
  return static_cast<std::size_t>(bytes);
}

void* allocate(std::int64_t bytes) {
  void* base = mmap(nullptr, size_of(bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED)
    throw_errno(fmt::format("reserving {} of address space", format_bytes(bytes)), "mmap");
  madvise(base, size_of(bytes), MADV_HUGEPAGE);
  return base;
}

void release(void* base, std::int64_t bytes) {
  munmap(base, size_of(bytes));
}

// Pointers to no bytes may be null, which memcpy does not take.
void copy(void* to, const void* from, std::int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, size_of(bytes));
}

Completion copy_at_once(void* to, const void* from, std::int64_t bytes) {
  copy(to, from, bytes);
  return {};
}

constexpr DeviceMemory kHost{
    .allocate = allocate,
    .release = release,
    .fill = [](void* at, int byte, std::int64_t bytes) { std::memset(at, byte, size_of(bytes)); },
    .to_host = copy,
    .from_host = copy,
    .wait = [] {},
    .start_to_host = copy_at_once,
    .start_from_host = copy_at_once,
    .allocate_host = allocate,
    .release_host = release,
};

}  // namespace

const DeviceMemory& device_memory(DeviceKind kind) {
  if (kind == DeviceKind::kCpu) return kHost;
  const GpuDriver* driver = gpu_driver();
  if (driver == nullptr)
    throw_user("device = \"cuda\": this program was built without CUDA; allowed here: cpu");
  return *driver->memory;
}

}  // namespace thimble
