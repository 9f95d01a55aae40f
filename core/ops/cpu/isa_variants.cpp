// The kernels that only some families of models need, and their table.
#include "core/ops/cpu/isa_variants.h"

#include "core/base/threads.h"
#include "core/ops/cpu/isa_element.h"
#include "core/ops/cpu/isa_norm.h"
#include "core/ops/variant_math.h"

namespace thimble::THIMBLE_ISA {
namespace {

void scale(const ScaleArgs& a) {
  with_float_type(a.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto* x = static_cast<const T*>(a.x);
    auto* out = static_cast<T*>(a.out);
    parallel_for(a.n, 1, [=, factor = a.factor](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) store(out + i, factor * load(x + i));
    });
  });
}

void soft_cap(const ScaleArgs& a) {
  with_float_type(a.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto* x = static_cast<const T*>(a.x);
    auto* out = static_cast<T*>(a.out);
    const float cap = a.factor, inverse = 1.0f / cap;
    parallel_for(a.n, 1, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i)
        store(out + i, cap * fast_tanh(load(x + i) * inverse));
    });
  });
}

void geglu(const ElementwiseArgs& a) {
  elementwise<geglu_value>(a);
}

void geglu_grad(const SwigluGradArgs& a) {
  gated_grad<geglu_grads>(a);
}

void unit_rms_norm(const RmsNormArgs& a) {
  norm<NormFactor::kOnePlusWeight>(a);
}

void unit_rms_norm_grad(const RmsNormGradArgs& a) {
  norm_grad<NormFactor::kOnePlusWeight>(a);
}

void partial_rope(const RopeArgs& a, std::int64_t head_stride) {
  rotate_heads(a, head_stride);
}

}  // namespace

const IsaVariants& isa_variants() {
  static constexpr IsaVariants kTable{
#define THIMBLE_FILL(kernel, ...) .kernel = kernel,
      THIMBLE_VARIANT_KERNELS(THIMBLE_FILL)
#undef THIMBLE_FILL
  };
  return kTable;
}

}  // namespace thimble::THIMBLE_ISA
