#include "train/gradient_clipping.h"

#include <algorithm>

namespace thimble {

double clip_factor(double max_norm, double norm) {
  return max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0;
}

}  // namespace thimble
