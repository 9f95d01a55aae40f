// Where parameter gradients go. The tape asks for a target when it has a contribution and says when
// a parameter's gradient is complete; whether it is then kept, reduced to another rank or used at
// once is the sink's affair.
#pragma once

#include <cstdint>

#include "core/tensor/tensor.h"

namespace thimble {

/// Index of a parameter in its table.
enum class ParamId : std::int32_t { kNone = -1 };

/// The buffer of one parameter's gradient, in storage layout.
struct GradTarget {
  Tensor tensor;            // f32 or bf16
  bool accumulate = false;  // false: the first contribution, to be written over whatever is there
};

class GradSink {
 public:
  virtual ~GradSink() = default;
  /// False for a frozen parameter: nothing is computed for it, no other call is made.
  virtual bool wants(ParamId id) const = 0;
  /// The target of the next contribution; it is written before the next call for the same
  /// parameter.
  virtual GradTarget accumulate_into(ParamId id) = 0;
  /// Every contribution of this backward pass has been written.
  virtual void complete(ParamId id) = 0;
};

}  // namespace thimble
