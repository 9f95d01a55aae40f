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

}  // namespace thimble::THIMBLE_ISA
