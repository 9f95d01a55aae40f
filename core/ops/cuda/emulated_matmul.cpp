// Matmuls of the emulated GPU: the CPU's, on the device's memory.
#include <memory>
#include <vector>

#include "core/device/cuda/emulated_gpu.h"
#include "core/device/cuda/emulator.h"
#include "core/ops/cuda/declare.h"
#include "core/ops/fp8_math.h"

namespace thimble::cuda {

void matmul(const MatmulSpec& s, const MatmulArgs& a) {
  gpu::start([=] {
    const KernelTable& cpu = kernels(Device{});
    // Its needs are not those that are planned for a GPU.
    constexpr std::size_t kAlign = 64;  // as an arena's
    std::vector<std::byte> scratch(static_cast<std::size_t>(cpu.matmul_workspace_bytes(s)) +
                                   kAlign);
    MatmulArgs here = a;
    here.workspace = scratch.data();
    std::size_t room = scratch.size();
    std::align(kAlign, room - kAlign, here.workspace, room);
    const gpu::DeviceAccess access;
    cpu.matmul(s, here);
  });
}

namespace {

// The codes' values in bf16, which holds all of them.
std::vector<BF16> decode(const Fp8Operand& x, std::int64_t n, Fp8Format format) {
  std::vector<BF16> values;
  for (std::int64_t i = 0; i < n; ++i)
    values.push_back(to_bf16(fp8_value(x.codes[i], format) * *x.scale));
  return values;
}

}  // namespace

void fp8_gemm(const Fp8MatmulSpec& s, const Fp8Operand& a, const Fp8Operand& b,
              const MatmulArgs& args) {
  gpu::start([=] {
    const gpu::DeviceAccess access;
    const std::vector<BF16> left = decode(a, s.matmul.m * s.matmul.k, s.a),
                            right = decode(b, s.matmul.n * s.matmul.k, s.b);
    MatmulArgs here = args;
    here.a = left.data();
    here.b = right.data();
    matmul(s.matmul, here);
  });
}

}  // namespace thimble::cuda
