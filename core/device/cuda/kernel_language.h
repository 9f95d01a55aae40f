// What kernels are written in. nvcc compiles them for GPUs; any C++ compiler compiles them against
// the emulator, which runs blocks one after another with real barriers and warps, so that tests
// prove every kernel on the CPU. Every thread of a block takes part in every barrier and every
// exchange of a warp: only kernels without them may return before their end.
#pragma once

#include <cstdint>

#include "core/base/host_device.h"

#ifdef __CUDACC__

#include <cuda_runtime.h>

#define TH_KERNEL __global__
#define TH_DEVICE __device__ __forceinline__
/// An array that the threads of a block share.
#define TH_SHARED(type, name, count) __shared__ type name[count]
#define TH_UNROLL _Pragma("unroll")

namespace thimble::gpu {
using Stream = cudaStream_t;

/// Throws SystemError if the last launch was refused.
void check_launch();

/// Starts `grid` blocks of `block` threads of a kernel. What goes wrong while it runs surfaces at
/// the next wait.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), unsigned grid, unsigned block, Stream stream,
            Arguments... arguments) {
  if (grid == 0) return;
  kernel<<<grid, block, 0, stream>>>(arguments...);
  check_launch();
}
/// Starts kernels that have neither barriers nor exchanges.
template <typename... Parameters, typename... Arguments>
void launch_flat(void (*kernel)(Parameters...), unsigned grid, unsigned block, Stream stream,
                 Arguments... arguments) {
  launch(kernel, grid, block, stream, arguments...);
}
TH_DEVICE float shuffle_xor(float value, int mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}
TH_DEVICE double shuffle_xor(double value, int mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}
TH_DEVICE void block_barrier() {
  __syncthreads();
}
/// c += a b, a matmul of 16 x 16 by 16 x 8, bf16 with f32 sums, in the fragments of mma.m16n8k16; a
/// whole warp calls it together.
TH_DEVICE void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// Two values rounded to bf16, the first in the lower half.
TH_DEVICE std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
/// 2^x to about 2 units in the last place.
TH_DEVICE float exp2_fast(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}
}  // namespace thimble::gpu

#else

#include "core/device/cuda/emulator.h"

#define TH_KERNEL static
#define TH_DEVICE static inline
#define TH_SHARED(type, name, count) static thread_local type name[count]
#define TH_UNROLL

#endif

namespace thimble::gpu {

inline constexpr int kWarp = 32;

/// The same sum, in the same order, on every thread of a warp.
template <typename T>
TH_DEVICE T warp_sum(T value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}
TH_DEVICE float warp_max(float value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const float other = shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

/// What `reduce_warp` makes of a warp's values and `join` of two results, over a block of kThreads
/// (a multiple of 32, at most 1024): the same on every thread, in an order that depends on kThreads
/// alone.
template <int kThreads, typename T, typename Warp, typename Join>
TH_DEVICE T block_reduce(T value, Warp&& reduce_warp, Join&& join) {
  static_assert(kThreads % kWarp == 0 && kThreads <= kWarp * kWarp);
  TH_SHARED(T, parts, kThreads / kWarp);
  value = reduce_warp(value);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = value;
  block_barrier();
  T all = parts[0];
  for (int i = 1; i < kThreads / kWarp; ++i) all = join(all, parts[i]);
  block_barrier();  // before anybody writes to `parts` again
  return all;
}
template <int kThreads, typename T>
TH_DEVICE T block_sum(T value) {
  return block_reduce<kThreads>(
      value, [](T v) { return warp_sum(v); }, [](T a, T b) { return a + b; });
}
template <int kThreads>
TH_DEVICE float block_max(float value) {
  return block_reduce<kThreads>(
      value, [](float v) { return warp_max(v); }, [](float a, float b) { return a > b ? a : b; });
}

}  // namespace thimble::gpu
