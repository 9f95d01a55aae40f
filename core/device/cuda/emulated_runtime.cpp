// The runtime of the emulator. Its device memory is memory of the process that only kernels and
// copies may touch: whoever reads a device pointer on the host faults, as with a GPU.
#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/device/cuda/emulated_gpu.h"
#include "core/device/cuda/runtime.h"

namespace thimble::gpu {
namespace {

std::mutex mutex;
std::map<void*, std::size_t> regions;
int users = 0;
bool is_open = false;
// Changing the protection takes longer than most kernels: it is done after every so many, a number
// that no pattern of kernels falls in with for long, and after every copy.
constexpr int kKernelsBetween = 7;
std::atomic<int> kernels_since = 0;

void set_open(bool open) {
  is_open = open;
  for (const auto& [base, bytes] : regions)
    mprotect(base, bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void* allocate(std::int64_t bytes) {
  const auto size = static_cast<std::size_t>(bytes);
  const std::scoped_lock lock(mutex);
  void* base = mmap(nullptr, size, is_open ? PROT_READ | PROT_WRITE : PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) throw_errno("device memory", "mmap");
  regions[base] = size;
  return base;
}

void release(void* base, std::int64_t bytes) {
  const std::scoped_lock lock(mutex);
  regions.erase(base);
  munmap(base, static_cast<std::size_t>(bytes));
}

using Work = std::vector<std::function<void()>>;
thread_local std::unique_ptr<Work> recorded;  // null: work is done as it comes

void move(void* to, const void* from, std::int64_t bytes) {
  const DeviceAccess access;
  kernels_since = kKernelsBetween;
  if (bytes > 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

// Where the host waits for the device, which has nothing to wait for while it records.
void synchronise() {
  if (recorded) throw SystemError("emulated GPU: the host waits for what is only recorded");
}
void move_now(void* to, const void* from, std::int64_t bytes) {
  synchronise();
  move(to, from, bytes);
}

// A copy is done as late as it may be: a caller that neither waits nor asks a second time sees what
// was there before.
class Copy final : public Completion::Work {
 public:
  Copy(void* to, const void* from, std::int64_t bytes) : to_(to), from_(from), bytes_(bytes) {}
  void wait() override {
    synchronise();
    move(to_, from_, std::exchange(bytes_, 0));
  }
  bool done() noexcept override {
    if (recorded) return true;  // waiting throws at once
    if (std::exchange(asked_, true)) move(to_, from_, std::exchange(bytes_, 0));
    return bytes_ == 0;
  }
  bool follow() override {
    wait();
    return true;
  }

 private:
  void* to_;
  const void* from_;
  std::int64_t bytes_;
  bool asked_ = false;
};
Completion start_copy(void* to, const void* from, std::int64_t bytes) {
  synchronise();
  return Completion(std::make_unique<Copy>(to, from, bytes));
}

}  // namespace

DeviceAccess::DeviceAccess() {
  const std::scoped_lock lock(mutex);
  ++users;
  if (!is_open) set_open(true);
}

DeviceAccess::~DeviceAccess() {
  const std::scoped_lock lock(mutex);
  if (--users > 0 || ++kernels_since < kKernelsBetween) return;
  kernels_since = 0;
  set_open(false);
}

Stream compute_stream() {
  return {};
}

const void* constant_bytes(const void* host, std::size_t) {
  return host;
}

void start(std::function<void()> work) {
  if (recorded) {
    recorded->push_back(std::move(work));
  } else {
    work();
  }
}

void zero(void* dst, std::int64_t bytes) {
  start([=] {
    const DeviceAccess access;
    if (bytes > 0) std::memset(dst, 0, static_cast<std::size_t>(bytes));
  });
}

void copy(void* dst, const void* src, std::int64_t bytes) {
  start([=] { move(dst, src, bytes); });
}

namespace {

const DeviceMemory& memory() {
  static const DeviceMemory kMemory{
      .allocate = allocate,
      .release = release,
      .fill =
          [](void* at, int byte, std::int64_t bytes) {
            start([=] {
              const DeviceAccess access;
              std::memset(at, byte, static_cast<std::size_t>(bytes));
            });
          },
      .to_host = move_now,
      .from_host = move_now,
      .wait = synchronise,
      .start_to_host = start_copy,
      .start_from_host = start_copy,
      .allocate_host = device_memory(DeviceKind::kCpu).allocate,
      .release_host = device_memory(DeviceKind::kCpu).release,
  };
  return kMemory;
}

constexpr GpuGraphs kGraphs{
    .begin = [] { recorded = std::make_unique<Work>(); },
    .end = []() -> void* { return recorded.release(); },
    .launch =
        [](void* graph) {
          for (const auto& work : *static_cast<Work*>(graph)) work();
        },
    .release = [](void* graph) { delete static_cast<Work*>(graph); },
};

}  // namespace

const GpuDriver& driver() {
  static const GpuDriver kDriver{
      .memory = &memory(),
      .graphs = &kGraphs,
      .count = [] { return 1; },
      .choose = [](int) {},
      .current =
          [] {
            constexpr std::int64_t kBytes = 4 * kGiB;
            return GpuInfo{
                .name = "emulated GPU", .total_bytes = kBytes, .free_bytes = kBytes, .major = 9};
          },
  };
  return kDriver;
}

}  // namespace thimble::gpu
