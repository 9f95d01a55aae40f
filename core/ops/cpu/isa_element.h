// Element-wise kernels made from one function of element_math.h. Include only from
// per-instruction-set sources.
#pragma once

#include <array>
#include <utility>

#include "core/base/threads.h"
#include "core/ops/cpu/isa_math.h"
#include "core/ops/kernel_table.h"

namespace thimble::THIMBLE_ISA {

template <auto kValue, typename T, std::size_t... kInput>
void elementwise_typed(const ElementwiseArgs& args, std::index_sequence<kInput...>) {
  auto* out = static_cast<T*>(args.out);
  const std::array<const T*, sizeof...(kInput)> in{static_cast<const T*>(args.in[kInput])...};
  parallel_for(args.n, 1, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) store(out + i, kValue(load(in[kInput] + i)...));
  });
}

/// out[i] = kValue(in[0][i], ...), where kValue takes as many floats as there are inputs.
template <auto kValue>
void elementwise(const ElementwiseArgs& args) {
  with_float_type(args.dtype, [&](auto* type) {
    elementwise_typed<kValue, std::remove_pointer_t<decltype(type)>>(
        args, std::make_index_sequence<input_count(kValue)>());
  });
}

/// dgate[i], dup[i] = kGrads(dout[i], gate[i], up[i]).
template <auto kGrads>
void gated_grad(const SwigluGradArgs& a) {
  with_float_type(a.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    auto* dg = static_cast<T*>(a.dgate);
    auto* du = static_cast<T*>(a.dup);
    const auto* d = static_cast<const T*>(a.dout);
    const auto* g = static_cast<const T*>(a.gate);
    const auto* u = static_cast<const T*>(a.up);
    parallel_for(a.n, 1, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        float of_gate, of_up;
        kGrads(load(d + i), load(g + i), load(u + i), of_gate, of_up);
        store(dg + i, of_gate);
        store(du + i, of_up);
      }
    });
  });
}

}  // namespace thimble::THIMBLE_ISA
