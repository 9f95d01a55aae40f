// The kernels that only some families of models need, and their table.
#include "core/ops/cuda/elementwise.cuh"
#include "core/ops/cuda/variants.h"
#include "core/ops/variant_math.h"

namespace thimble::cuda {
namespace {

template <typename T>
TH_KERNEL void scale_kernel(ScaleArgs a) {
  const Run run = run_of_thread(a.n);
  float values[kRun];
  load_run(static_cast<const T*>(a.x), run, values);
  for (int i = 0; i < kRun; ++i) values[i] *= a.factor;
  store_floats<kRun>(static_cast<T*>(a.out) + run.begin, run.count, values);
}

template <typename T>
TH_KERNEL void soft_cap_kernel(ScaleArgs a) {
  const Run run = run_of_thread(a.n);
  float values[kRun];
  load_run(static_cast<const T*>(a.x), run, values);
  const float inverse = 1.0f / a.factor;
  for (int i = 0; i < kRun; ++i) values[i] = a.factor * fast_tanh(values[i] * inverse);
  store_floats<kRun>(static_cast<T*>(a.out) + run.begin, run.count, values);
}

void scale(const ScaleArgs& a) {
  with_float_type(a.dtype, [&](auto* type) {
    gpu::launch_flat(scale_kernel<std::remove_pointer_t<decltype(type)>>, blocks_of_runs(a.n),
                     kThreads, gpu::compute_stream(), a);
  });
}

void soft_cap(const ScaleArgs& a) {
  with_float_type(a.dtype, [&](auto* type) {
    gpu::launch_flat(soft_cap_kernel<std::remove_pointer_t<decltype(type)>>, blocks_of_runs(a.n),
                     kThreads, gpu::compute_stream(), a);
  });
}

void geglu(const ElementwiseArgs& a) {
  elementwise<geglu_value>(a);
}

void geglu_grad(const SwigluGradArgs& a) {
  gated_grad<geglu_grads>(a);
}

}  // namespace

const VariantKernels& variant_kernel_table() {
  static const VariantKernels kTable = [] {
    VariantKernels table("gpu");
    table.scale = scale;
    table.soft_cap = soft_cap;
    table.geglu = geglu;
    table.geglu_grad = geglu_grad;
    table.unit_rms_norm = unit_rms_norm;
    table.unit_rms_norm_grad = unit_rms_norm_grad;
    table.partial_rope = partial_rope;
    return table;
  }();
  return kTable;
}

}  // namespace thimble::cuda
