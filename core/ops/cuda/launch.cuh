// How the GPU's ops cut their work: eight neighbouring elements per thread, or a row per block.
#pragma once

#include "core/base/error.h"
#include "core/device/cuda/runtime.h"
#include "core/ops/cuda/vector.cuh"
#include "core/ops/element_math.h"
#include "core/ops/kernel_table.h"

namespace thimble::cuda {

inline constexpr unsigned kThreads = 256;
inline constexpr int kRun = 8;  // elements of a thread

/// The elements of one thread: [begin, begin + count), count at most kRun and possibly 0.
struct Run {
  std::int64_t begin;
  int count;
};
TH_DEVICE Run run_of(std::int64_t index, std::int64_t n) {
  const std::int64_t begin = index * kRun, left = n - begin;
  return {begin, left >= kRun ? kRun : (left > 0 ? static_cast<int>(left) : 0)};
}
TH_DEVICE Run run_of_thread(std::int64_t n) {
  return run_of(static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, n);
}
TH_DEVICE void clear(float* values) {
  for (int i = 0; i < kRun; ++i) values[i] = 0.0f;
}
/// values[0, kRun) <- the run's elements of an array; 0 beyond them.
template <typename T>
TH_DEVICE void load_run(const T* from, Run run, float* values) {
  clear(values);
  load_floats<kRun>(from + run.begin, run.count, values);
}

inline unsigned blocks_for(std::int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}
inline unsigned blocks_of_runs(std::int64_t n) {
  return blocks_for((n + kRun - 1) / kRun);
}

}  // namespace thimble::cuda
