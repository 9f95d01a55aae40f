// Which norm gradients are clipped by.
#pragma once

#include <cstdint>

namespace thimble {

/// How gradients are clipped when their norm must be known before all of them are.
enum class ClipMode : std::uint8_t {
  kExact,      // by the step's norm: nothing is updated before all gradients are there
  kTwoPass,    // by the step's norm, which a backward pass of its own finds first
  kLagged,     // by the norm of the step before
  kPerTensor,  // each tensor by its own norm
};

}  // namespace thimble
