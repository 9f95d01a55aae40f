// The arithmetic of one AdamW step over a run of elements, compiled per instruction set.
#pragma once

#include <cstdint>

#include "core/base/dtype.h"

namespace thimble {

struct AdamWStep {
  std::int64_t n = 0;
  const void* grad = nullptr;
  DType grad_dtype = DType::kF32;
  float* master = nullptr;
  float* exp_avg = nullptr;
  float* exp_avg_sq = nullptr;
  BF16* weight = nullptr;  // written from master if not null
  float grad_scale = 1;
  float beta1 = 0, beta2 = 0;
  float step_size = 0;        // lr / c1, or lr * sqrt(c2) / c1
  float inverse_sqrt_c2 = 1;  // 1 for the Hugging Face convention
  float eps = 0;
  float decay = 1;  // 1 - lr * weight_decay
  bool decay_after = false;
};

namespace avx2 {
void adamw_step(const AdamWStep& step);
}
namespace avx512 {
void adamw_step(const AdamWStep& step);
}

}  // namespace thimble
