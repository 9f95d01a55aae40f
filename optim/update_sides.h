// Beside a GPU, which parts of an update it computes and which its CPU does, where both can: a
// share of the elements each, in turn, so that both sides always have work. A function of sizes
// alone.
// Ref: Deep Optimizer States, every k-th group on the GPU.
#pragma once

#include <span>
#include <vector>

#include "core/nn/param.h"

namespace thimble {

class UpdateSides {
 public:
  /// gpu_share: of the elements, 0 to 1.
  UpdateSides(const ParamTable& params, double gpu_share);

  bool any_on_cpu() const { return share_ < 1; }
  /// For parts of a parameter's rows that follow each other, whether the GPU updates each.
  std::vector<bool> on_gpu(ParamId id, std::span<const Slice> parts) const;

 private:
  const ParamTable& params_;
  double share_;
  std::vector<std::int64_t> before_;  // by parameter, elements of those before it
};

}  // namespace thimble
