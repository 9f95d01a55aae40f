// Runs kernels on the CPU, thread by thread, for tests: each thread of a block is a fibre that
// gives way at barriers and exchanges. What a GPU would do wrong (a thread that misses a barrier)
// is an error here.
#pragma once

#include <cstdint>
#include <functional>

namespace thimble::gpu {

struct Index {
  unsigned x = 0;
};
/// The indices of the running fibre; the names are those of CUDA. (constinit: reading them is no
/// call.)
extern constinit thread_local Index threadIdx, blockIdx, blockDim, gridDim;

/// There is one stream, and work is done when launch returns, unless it is being recorded.
struct Stream {};

/// Does some of the device's work, or adds it to what the calling thread records.
void start(std::function<void()> work);

/// Waits for all threads of the block.
void block_barrier();
/// The value of the thread of this warp whose number differs in the bits of `mask`.
float shuffle_xor(float value, int mask);
double shuffle_xor(double value, int mask);

/// See kernel_language.h.
void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);
std::uint32_t pack_bf16(float low, float high);
float exp2_fast(float x);

/// Runs `body` on every thread of `grid` blocks. Throws LogicError if threads of a block wait for
/// each other in vain.
void run_grid(unsigned grid, unsigned block, const std::function<void()>& body);
/// The same without fibres: the body has neither barriers nor exchanges.
void run_grid_flat(unsigned grid, unsigned block, const std::function<void()>& body);

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), unsigned grid, unsigned block, Stream,
            Arguments... arguments) {
  start([=] { run_grid(grid, block, [=] { kernel(arguments...); }); });
}
template <typename... Parameters, typename... Arguments>
void launch_flat(void (*kernel)(Parameters...), unsigned grid, unsigned block, Stream,
                 Arguments... arguments) {
  start([=] { run_grid_flat(grid, block, [=] { kernel(arguments...); }); });
}

}  // namespace thimble::gpu

namespace thimble {
using gpu::blockDim;
using gpu::blockIdx;
using gpu::gridDim;
using gpu::threadIdx;
}  // namespace thimble
