// The functions of elementwise.h, one struct of pointers per instruction set and device.
#pragma once

#include "optim/elementwise.h"

namespace thimble {

struct ElementwiseTable {
  decltype(&thimble::adam_step) adam_step;
  decltype(&thimble::adam_direction) adam_direction;
  decltype(&thimble::momentum_step) momentum_step;
  decltype(&thimble::momentum_direction) momentum_direction;
  decltype(&thimble::accumulate_momentum) accumulate_momentum;
  decltype(&thimble::lion_step) lion_step;
  decltype(&thimble::scaled_step) scaled_step;
  decltype(&thimble::row_squares) row_squares;
  decltype(&thimble::column_squares) column_squares;
  decltype(&thimble::store_values) store_values;
  decltype(&thimble::fill_normal) fill_normal;
  decltype(&thimble::scale_values) scale_values;
  decltype(&thimble::newton_schulz_polynomial) newton_schulz_polynomial;
};

/// Makes `table`, which must live on, the updates of DeviceKind::kGpu.
void register_gpu_updates(const ElementwiseTable& table);

namespace avx2 {
extern const ElementwiseTable kElementwise;
}
namespace avx512 {
extern const ElementwiseTable kElementwise;
}
namespace cuda {
extern const ElementwiseTable kElementwise;
}

}  // namespace thimble
