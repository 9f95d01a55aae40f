#include <cstring>
#include <map>
#include <mutex>

#include "core/base/error.h"
#include "core/device/cuda/runtime.h"

namespace thimble::gpu {
namespace {

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw_system("CUDA: {}: {}", what, cudaGetErrorString(error));
}

// Copies in the order of the stream; done on return.
void move(void* to, const void* from, std::int64_t bytes, cudaMemcpyKind kind) {
  check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), kind, compute_stream()),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(compute_stream()), "cudaStreamSynchronize");
}

Stream make_stream() {
  Stream made = nullptr;
  check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return made;
}

cudaEvent_t mark(Stream stream) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  check(cudaEventRecord(event, stream), "cudaEventRecord");
  return event;
}

class Copy final : public Completion::Work {
 public:
  explicit Copy(cudaEvent_t end) : end_(end) {}
  ~Copy() override { cudaEventDestroy(end_); }
  void wait() override { check(cudaEventSynchronize(end_), "cudaEventSynchronize"); }
  bool done() noexcept override { return has_happened(end_); }
  bool follow() override {
    check(cudaStreamWaitEvent(compute_stream(), end_, 0), "cudaStreamWaitEvent");
    return true;
  }

 private:
  cudaEvent_t end_;
};

// Copies beside the kernels, after those that were started before. Each way has a stream of its
// own, for the bus carries both at once.
Completion start_copy(void* to, const void* from, std::int64_t bytes, cudaMemcpyKind kind) {
  thread_local const Stream to_host = make_stream(), from_host = make_stream();
  const Stream copies = kind == cudaMemcpyDeviceToHost ? to_host : from_host;
  const cudaEvent_t begin = mark(compute_stream());
  check(cudaStreamWaitEvent(copies, begin, 0), "cudaStreamWaitEvent");
  check(cudaEventDestroy(begin), "cudaEventDestroy");
  check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), kind, copies),
        "cudaMemcpyAsync");
  return Completion(std::make_unique<Copy>(mark(copies)));
}

}  // namespace

bool has_happened(cudaEvent_t event) noexcept {
  if (cudaEventQuery(event) != cudaErrorNotReady) return true;
  static_cast<void>(cudaGetLastError());  // not an error, which check_launch() must not find
  return false;
}

void check_launch() {
  check(cudaGetLastError(), "starting a kernel");
}

Stream compute_stream() {
  thread_local const Stream stream = make_stream();
  return stream;
}

void zero(void* dst, std::int64_t bytes) {
  check(cudaMemsetAsync(dst, 0, static_cast<std::size_t>(bytes), compute_stream()),
        "cudaMemsetAsync");
}

void copy(void* dst, const void* src, std::int64_t bytes) {
  check(cudaMemcpyAsync(dst, src, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice,
                        compute_stream()),
        "cudaMemcpyAsync");
}

namespace {

const DeviceMemory& memory() {
  static const DeviceMemory kMemory{
      .allocate =
          [](std::int64_t bytes) {
            void* base = nullptr;
            check(cudaMalloc(&base, static_cast<std::size_t>(bytes)), "cudaMalloc");
            return base;
          },
      .release = [](void* base, std::int64_t) { static_cast<void>(cudaFree(base)); },
      .fill =
          [](void* at, int byte, std::int64_t bytes) {
            check(cudaMemsetAsync(at, byte, static_cast<std::size_t>(bytes), compute_stream()),
                  "cudaMemsetAsync");
          },
      .to_host = [](void* host, const void* at,
                    std::int64_t bytes) { move(host, at, bytes, cudaMemcpyDeviceToHost); },
      .from_host = [](void* at, const void* host,
                      std::int64_t bytes) { move(at, host, bytes, cudaMemcpyHostToDevice); },
      .wait = [] { check(cudaStreamSynchronize(compute_stream()), "cudaStreamSynchronize"); },
      .start_to_host =
          [](void* host, const void* at, std::int64_t bytes) {
            return start_copy(host, at, bytes, cudaMemcpyDeviceToHost);
          },
      .start_from_host =
          [](void* at, const void* host, std::int64_t bytes) {
            return start_copy(at, host, bytes, cudaMemcpyHostToDevice);
          },
      .allocate_host =
          [](std::int64_t bytes) {
            void* base = nullptr;
            check(cudaMallocHost(&base, static_cast<std::size_t>(bytes)), "cudaMallocHost");
            return base;
          },
      .release_host = [](void* base, std::int64_t) { static_cast<void>(cudaFreeHost(base)); },
  };
  return kMemory;
}

// Null if the record was spoilt: the work can still be done as it comes.
void* end_graph() {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t whole = nullptr;
  if (cudaStreamEndCapture(compute_stream(), &graph) == cudaSuccess)
    static_cast<void>(cudaGraphInstantiate(&whole, graph, 0));
  if (graph != nullptr) cudaGraphDestroy(graph);
  static_cast<void>(cudaGetLastError());
  return whole;
}

constexpr GpuGraphs kGraphs{
    .begin =
        [] {
          check(cudaStreamBeginCapture(compute_stream(), cudaStreamCaptureModeThreadLocal),
                "cudaStreamBeginCapture");
        },
    .end = end_graph,
    .launch =
        [](void* graph) {
          check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), compute_stream()),
                "cudaGraphLaunch");
        },
    .release = [](void* graph) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); },
};

int count() {
  int gpus = 0;
  return cudaGetDeviceCount(&gpus) == cudaSuccess ? gpus : 0;
}

GpuInfo current() {
  int index = 0;
  cudaDeviceProp properties{};
  std::size_t free = 0, total = 0;
  check(cudaGetDevice(&index), "cudaGetDevice");
  check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  GpuInfo info{.name = properties.name,
               .total_bytes = static_cast<std::int64_t>(total),
               .free_bytes = static_cast<std::int64_t>(free),
               .major = properties.major,
               .minor = properties.minor};
  static_assert(sizeof(properties.uuid.bytes) == sizeof(info.uuid));
  std::memcpy(info.uuid.data(), properties.uuid.bytes, sizeof(info.uuid));
  return info;
}

}  // namespace

const GpuDriver& driver() {
  static const GpuDriver kDriver{
      .memory = &memory(),
      .graphs = &kGraphs,
      .count = count,
      .choose = [](int index) { check(cudaSetDevice(index), "cudaSetDevice"); },
      .current = current,
  };
  return kDriver;
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
    move(copy, host, static_cast<std::int64_t>(bytes), cudaMemcpyHostToDevice);
  }
  return copy;
}

}  // namespace thimble::gpu
