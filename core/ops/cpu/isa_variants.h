// The CPU kernels of variant_kernels.h, which are compiled once per instruction set.
#pragma once

#include "core/ops/variant_kernels.h"

namespace thimble {

struct IsaVariants {
#define THIMBLE_FIELD(kernel, ...) void (*kernel)(__VA_ARGS__) = nullptr;
  THIMBLE_VARIANT_KERNELS(THIMBLE_FIELD)
#undef THIMBLE_FIELD
};

namespace avx2 {
const IsaVariants& isa_variants();
}
namespace avx512 {
const IsaVariants& isa_variants();
}

}  // namespace thimble
