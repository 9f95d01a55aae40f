// What Adam and everything built on it have in common.
#pragma once

#include "optim/elementwise.h"

namespace thimble {

enum class EpsMode : std::uint8_t {
  kTorch,  // m / c1 / (sqrt(v / c2) + eps)
  kHf,     // sqrt(c2) / c1 * m / (sqrt(v) + eps)
};

struct AdamOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  EpsMode eps_mode = EpsMode::kTorch;
  bool decay_after = false;  // decay the updated instead of the old weight
  bool decay_all = false;    // norms and biases too, as PyTorch does unless told otherwise
  StateFormat state = StateFormat::kF32;
};

/// The arithmetic of update number `step` at learning rate `lr`, biases corrected.
AdamMath adam_math(const AdamOptions& options, std::int64_t step, double lr);
WeightDecay weight_decay(const AdamOptions& options, const ParamInfo& info, double lr);

/// Slices must not cut 8-bit blocks of element-wise state.
OptimizerNeed element_need(const ParamInfo& info, StateFormat format);

/// Two moments for the values that `exp_avg` and `exp_avg_sq` slots describe (f32, these names).
struct AdamSlots {
  StateSlot exp_avg, exp_avg_sq;
};
/// One moment of each kind per element.
AdamSlots element_moments(const ParamInfo& info);
/// `width` of each per row.
AdamSlots row_moments(const ParamInfo& info, std::int64_t width);

std::vector<StateSlot> moment_slots(const AdamSlots& slots, StateFormat format);
/// The moments at the front of args.state, as moment_slots() made their slots.
AdamState moment_state(const UpdateArgs& args, const AdamSlots& slots, StateFormat format);
/// How many tensors of args.state they take.
std::size_t num_moment_slots(const AdamSlots& slots, StateFormat format);

}  // namespace thimble
