// Cross-entropy over a chunk of logits, in place.
#include "core/ops/cuda/declare.h"
#include "core/ops/cuda/launch.cuh"

namespace thimble::cuda {
namespace {

constexpr int kRowThreads = 512;

// The gradient of a row in bf16 lies where the first half of its logits lay: a block reads
// kRowThreads of them before it writes their place, and what it writes has been read before.
TH_DEVICE void store_gradient(const CrossEntropyArgs& a, float* row, std::int32_t target, float top,
                              float sum) {
  const float factor = a.weights[blockIdx.x] * a.grad_scale / sum;
  for (std::int64_t begin = 0; begin < a.vocab; begin += kRowThreads) {
    const std::int64_t i = begin + threadIdx.x;
    float gradient = 0.0f;
    if (i < a.vocab) {
      const float e = fast_exp(row[i] - top);
      // The target's own gradient is (p - 1) w s = (e - sum) * factor.
      gradient = (i == target ? e - sum : e) * factor;
      if (a.softcap > 0.0f) gradient *= 1.0f - row[i] / a.softcap * (row[i] / a.softcap);
    }
    gpu::block_barrier();
    if (i < a.vocab && a.grad_dtype == DType::kBF16) {
      reinterpret_cast<BF16*>(row)[i] = to_bf16(gradient);
    } else if (i < a.vocab) {
      row[i] = gradient;
    }
    gpu::block_barrier();
  }
}

// A block has a row; rows without weight are cleared.
TH_KERNEL void cross_entropy_kernel(CrossEntropyArgs a) {
  float* row = a.logits + blockIdx.x * a.vocab;
  const std::int32_t target = a.targets[blockIdx.x];
  if (a.weights[blockIdx.x] == 0.0f) {
    if (threadIdx.x == 0) a.losses[blockIdx.x] = 0.0f;
    for (std::int64_t i = threadIdx.x; a.want_grad && i < a.vocab; i += kRowThreads) {
      if (a.grad_dtype == DType::kBF16) {
        reinterpret_cast<BF16*>(row)[i] = BF16{};
      } else {
        row[i] = 0.0f;
      }
    }
    return;
  }
  for (std::int64_t i = threadIdx.x; a.softcap > 0.0f && i < a.vocab; i += kRowThreads)
    row[i] = a.softcap * fast_tanh(row[i] / a.softcap);
  float top = -HUGE_VALF;
  for (std::int64_t i = threadIdx.x; i < a.vocab; i += kRowThreads)
    top = row[i] > top ? row[i] : top;
  top = gpu::block_max<kRowThreads>(top);
  float sum = 0;
  for (std::int64_t i = threadIdx.x; i < a.vocab; i += kRowThreads) sum += fast_exp(row[i] - top);
  sum = gpu::block_sum<kRowThreads>(sum);
  if (threadIdx.x == 0) a.losses[blockIdx.x] = std::log(sum) + top - row[target];
  gpu::block_barrier();
  if (a.want_grad) store_gradient(a, row, target, top, sum);
}

}  // namespace

void cross_entropy(const CrossEntropyArgs& a) {
  gpu::launch(cross_entropy_kernel, static_cast<unsigned>(a.rows), kRowThreads,
              gpu::compute_stream(), a);
}

}  // namespace thimble::cuda
