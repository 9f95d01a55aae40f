// The CPU's kernel table and the tables of plans; chooses the instruction set once.
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "core/base/error.h"
#include "core/base/threads.h"
#include "core/ops/cpu/isa_kernels.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/onednn_matmul.h"
#include "core/ops/cuda/sizes.h"

namespace thimble {
namespace {

enum class Isa { kAvx2, kAvx512, kAvx512Bf16, kAmxBf16 };

bool finds_amx_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx >> 22 & 1u) == 0) return false;
  // Linux saves the tiles of a process only once it has asked.
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

Isa detect() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    throw SystemError("this CPU has no AVX2 and FMA; Thimble needs them");
  }
  const char* variable = std::getenv("THIMBLE_ISA");
  const std::string_view wanted = variable == nullptr ? "" : variable;
  if (!wanted.empty() && wanted != "avx2" && wanted != "avx512" && wanted != "avx512_bf16") {
    throw_user("THIMBLE_ISA='{}': allowed avx2, avx512, avx512_bf16", wanted);
  }
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (!avx512 || wanted == "avx2") {
    onednn::limit_to_avx2();
    return Isa::kAvx2;
  }
  if (wanted == "avx512" || !__builtin_cpu_supports("avx512bf16")) return Isa::kAvx512;
  if (wanted != "avx512_bf16" && finds_amx_bf16()) return Isa::kAmxBf16;
  onednn::limit_to_avx512_bf16();
  return Isa::kAvx512Bf16;
}

Isa isa() {
  static const Isa kIsa = detect();
  return kIsa;
}

}  // namespace

namespace cpu {

void embedding(const EmbeddingArgs& a) {
  const std::int64_t row = a.cols * dtype_size(a.dtype);
  parallel_for_each(a.tokens, a.cols, [&](std::int64_t t) {
    std::memcpy(static_cast<char*>(a.out) + t * row,
                static_cast<const char*>(a.table) + a.ids[t] * row, static_cast<std::size_t>(row));
  });
}

// Pages, each about as much work as this many values.
constexpr std::int64_t kPage = 4096, kPageCost = 256;

void zero(void* dst, std::int64_t bytes) {
  parallel_for((bytes + kPage - 1) / kPage, kPageCost, [&](std::int64_t begin, std::int64_t end) {
    std::memset(static_cast<char*>(dst) + begin * kPage, 0,
                static_cast<std::size_t>(std::min(end * kPage, bytes) - begin * kPage));
  });
}

void copy(void* dst, const void* src, std::int64_t bytes) {
  parallel_for((bytes + kPage - 1) / kPage, kPageCost, [&](std::int64_t begin, std::int64_t end) {
    std::memcpy(static_cast<char*>(dst) + begin * kPage,
                static_cast<const char*>(src) + begin * kPage,
                static_cast<std::size_t>(std::min(end * kPage, bytes) - begin * kPage));
  });
}

}  // namespace cpu

namespace {

KernelTable make_cpu_table() {
  const IsaKernels& isa_table = isa_kernels();
  KernelTable table("cpu");
#define THIMBLE_FILL(kernel, ...) table.kernel = isa_table.kernel;
  THIMBLE_ISA_KERNELS(THIMBLE_FILL)
#undef THIMBLE_FILL
#define THIMBLE_FILL(kernel, ...) table.kernel = cpu::kernel;
  THIMBLE_PLAIN_KERNELS(THIMBLE_FILL)
  THIMBLE_CPU_ONLY_KERNELS(THIMBLE_FILL)
#undef THIMBLE_FILL
#define THIMBLE_FILL(result, function, ...) table.function = cpu::function;
  THIMBLE_KERNEL_SIZES(THIMBLE_FILL)
#undef THIMBLE_FILL
  return table;
}

// Every kernel does nothing; the sizes are those of the CPU.
KernelTable make_planning_table(const char* name) {
  KernelTable table(name);
#define THIMBLE_FILL(kernel, ...) table.kernel.do_nothing();
  THIMBLE_KERNELS(THIMBLE_FILL)
#undef THIMBLE_FILL
#define THIMBLE_FILL(result, function, ...) table.function = cpu::function;
  THIMBLE_KERNEL_SIZES(THIMBLE_FILL)
#undef THIMBLE_FILL
  return table;
}

// Every kernel does nothing; the sizes are those of a GPU.
KernelTable make_gpu_planning_table() {
  KernelTable table = make_planning_table("plan of gpu");
#define THIMBLE_FILL(result, function, ...) table.function = cuda::function;
  THIMBLE_KERNEL_SIZES(THIMBLE_FILL)
#undef THIMBLE_FILL
  return table;
}

}  // namespace

void throw_no_kernel(const char* operation, const char* backend) {
  throw_system("{}: the backend '{}' has no kernel for this operation", operation, backend);
}

const IsaKernels& isa_kernels() {
  static const IsaKernels& kChosen =
      isa() == Isa::kAvx2 ? avx2::isa_kernels() : avx512::isa_kernels();
  return kChosen;
}

const MatmulKernel* matmul_kernel(MatmulPath path) {
  if (path == MatmulPath::kBf16 && !has_native_bf16()) return nullptr;
  if (path == MatmulPath::kAmx && !has_amx_bf16()) return nullptr;
  return isa() == Isa::kAvx2 ? avx2::matmul_kernel(path) : avx512::matmul_kernel(path);
}

bool has_native_bf16() {
  return isa() == Isa::kAvx512Bf16 || isa() == Isa::kAmxBf16;
}

bool has_amx_bf16() {
  return isa() == Isa::kAmxBf16;
}

const char* cpu_isa() {
  switch (isa()) {
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAmxBf16:
      return "amx_bf16";
  }
  return "?";
}

namespace {

std::atomic<const KernelTable*> gpu_table{nullptr};

}  // namespace

void register_gpu_kernels(const KernelTable& real) {
  gpu_table = &real;
}

const KernelTable& kernels(Device device) {
  static const KernelTable kCpu = make_cpu_table();
  static const KernelTable kPlan = make_planning_table("plan of cpu");
  static const KernelTable kGpuPlan = make_gpu_planning_table();
  if (device.kind == DeviceKind::kCpu) return device.planning ? kPlan : kCpu;
  if (device.planning) return kGpuPlan;
  const KernelTable* gpu = gpu_table;
  TH_CHECK(gpu != nullptr, "no kernels for GPUs are registered");
  return *gpu;
}

}  // namespace thimble
