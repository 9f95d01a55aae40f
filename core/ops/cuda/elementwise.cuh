// Element-wise kernels made from one function of element_math.h or variant_math.h.
#pragma once

#include "core/ops/cuda/launch.cuh"
#include "core/ops/kernel_table.h"

namespace thimble::cuda {

// out[i] = kValue(in[0][i], ...); kInputs is the number of floats that kValue takes.
template <auto kValue, typename T>
TH_KERNEL void elementwise_kernel(ElementwiseArgs a) {
  constexpr std::size_t kInputs = input_count(kValue);
  const Run run = run_of_thread(a.n);
  float in[3][kRun], out[kRun];
  for (std::size_t k = 0; k < kInputs; ++k) load_run(static_cast<const T*>(a.in[k]), run, in[k]);
  for (int i = 0; i < kRun; ++i) {
    if constexpr (kInputs == 1) {
      out[i] = kValue(in[0][i]);
    } else if constexpr (kInputs == 2) {
      out[i] = kValue(in[0][i], in[1][i]);
    } else {
      out[i] = kValue(in[0][i], in[1][i], in[2][i]);
    }
  }
  store_floats<kRun>(static_cast<T*>(a.out) + run.begin, run.count, out);
}

/// On the stream of computing.
template <auto kValue>
void elementwise(const ElementwiseArgs& a) {
  with_float_type(a.dtype, [&](auto* type) {
    gpu::launch_flat(elementwise_kernel<kValue, std::remove_pointer_t<decltype(type)>>,
                     blocks_of_runs(a.n), kThreads, gpu::compute_stream(), a);
  });
}

// dgate[i], dup[i] = kGrads(dout[i], gate[i], up[i]).
template <auto kGrads, typename T>
TH_KERNEL void gated_grad_kernel(SwigluGradArgs a) {
  const Run run = run_of_thread(a.n);
  float d[kRun], g[kRun], u[kRun];
  load_run(static_cast<const T*>(a.dout), run, d);
  load_run(static_cast<const T*>(a.gate), run, g);
  load_run(static_cast<const T*>(a.up), run, u);
  for (int i = 0; i < kRun; ++i) {
    float of_gate, of_up;
    kGrads(d[i], g[i], u[i], of_gate, of_up);
    g[i] = of_gate;
    u[i] = of_up;
  }
  store_floats<kRun>(static_cast<T*>(a.dgate) + run.begin, run.count, g);
  store_floats<kRun>(static_cast<T*>(a.dup) + run.begin, run.count, u);
}

/// The gradients of a gated activation, on the stream of computing.
template <auto kGrads>
void gated_grad(const SwigluGradArgs& a) {
  with_float_type(a.dtype, [&](auto* type) {
    gpu::launch_flat(gated_grad_kernel<kGrads, std::remove_pointer_t<decltype(type)>>,
                     blocks_of_runs(a.n), kThreads, gpu::compute_stream(), a);
  });
}

}  // namespace thimble::cuda
