// Where gradients wait for the update, if not in memory beside the backward pass. Implementations
// live in other folders.
#pragma once

#include "core/autograd/grad_sink.h"

namespace thimble {

class GradientHome {
 public:
  virtual ~GradientHome() = default;
  /// Whether the gradients of this parameter go there in the running step.
  virtual bool takes(ParamId id) const = 0;
  /// Takes what a micro-batch gives for the rows that this rank updates, over all ranks, and adds
  /// it to what the micro-batches before gave. `rows`: those rows of the parameter's storage, bf16
  /// or f32; f32 with several micro-batches. last: the gradient is final then. Throws SystemError
  /// if they cannot be kept.
  virtual void add(ParamId id, const Tensor& rows, bool last) = 0;
};

}  // namespace thimble
