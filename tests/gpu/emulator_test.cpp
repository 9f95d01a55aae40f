// The emulator that kernels are tested with: barriers, exchanges, and threads that miss them.
#include <gtest/gtest.h>

#include <vector>

#include "core/base/error.h"
#include "core/device/cuda/runtime.h"

namespace thimble::gpu {
namespace {

TH_KERNEL void sum_kernel(const float* in, std::int64_t n, float* out) {
  float sum = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += in[blockIdx.x * n + i];
  const float total = block_sum<64>(sum), top = block_max<64>(sum);
  out[(blockIdx.x * blockDim.x + threadIdx.x) * 2] = total;
  out[(blockIdx.x * blockDim.x + threadIdx.x) * 2 + 1] = top;
}

TEST(EmulatorTest, BlocksSumAndEveryThreadHasTheResult) {
  constexpr std::int64_t kValues = 1000;
  std::vector<float> in(3 * kValues), out(3 * 64 * 2);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i % 17);
  launch(sum_kernel, 3, 64, compute_stream(), in.data(), kValues, out.data());
  for (std::size_t b = 0; b < 3; ++b) {
    float sum = 0, top = 0, parts[64] = {};
    for (std::size_t i = 0; i < kValues; ++i) {
      sum += in[b * kValues + i];
      parts[i % 64] += in[b * kValues + i];
    }
    for (const float p : parts) top = std::max(top, p);
    for (std::size_t t = 0; t < 64; ++t) {
      EXPECT_EQ(out[(b * 64 + t) * 2], sum);
      EXPECT_EQ(out[(b * 64 + t) * 2 + 1], top);
    }
  }
}

TEST(EmulatorTest, AThreadThatMissesABarrierIsAnError) {
  EXPECT_THROW(run_grid(1, 64,
                        [] {
                          if (threadIdx.x != 5) block_barrier();
                        }),
               LogicError);
  EXPECT_THROW(run_grid(1, 64,
                        [] {
                          if (threadIdx.x < 32) {
                            block_barrier();
                          } else {
                            static_cast<void>(shuffle_xor(1.0f, 1));
                            static_cast<void>(shuffle_xor(1.0f, 1));
                          }
                        }),
               LogicError);
}

TEST(EmulatorTest, ErrorsOfThreadsSurface) {
  EXPECT_THROW(run_grid(2, 32, [] { throw UserError("no"); }), UserError);
}

// Only kernels and copies may touch the emulated GPU's memory.
TEST(EmulatorDeathTest, TheHostCannotTouchItsMemory) {
  const DeviceMemory& memory = *driver().memory;
  constexpr std::int64_t kBytes = 1 << 20;
  void* base = memory.allocate(kBytes);
  const std::vector<char> sent(kBytes, 7);
  std::vector<char> back(kBytes);
  memory.from_host(base, sent.data(), kBytes);
  memory.to_host(back.data(), base, kBytes);
  EXPECT_EQ(back, sent);
  EXPECT_DEATH(static_cast<void>(*static_cast<volatile char*>(base)), "");
  memory.release(base, kBytes);
}

}  // namespace
}  // namespace thimble::gpu
