#include "optim/adam_options.h"

#include <cmath>

namespace thimble {

AdamMath adam_math(const AdamOptions& o, std::int64_t step, double lr) {
  const auto t = static_cast<double>(step);
  const double c1 = 1 - std::pow(o.beta1, t), c2 = 1 - std::pow(o.beta2, t);
  const bool hf = o.eps_mode == EpsMode::kHf;
  return {.beta1 = static_cast<float>(o.beta1),
          .beta2 = static_cast<float>(o.beta2),
          .step_size = static_cast<float>(lr / c1 * (hf ? std::sqrt(c2) : 1.0)),
          .inverse_sqrt_c2 = static_cast<float>(hf ? 1.0 : 1.0 / std::sqrt(c2)),
          .eps = static_cast<float>(o.eps)};
}

WeightDecay weight_decay(const AdamOptions& o, const ParamInfo& info, double lr) {
  const bool decays = o.decay_all || info.is_matrix();
  return {.factor = static_cast<float>(decays ? 1 - lr * o.weight_decay : 1.0),
          .after = o.decay_after};
}

OptimizerNeed element_need(const ParamInfo& info, StateFormat format) {
  if (format != StateFormat::k8Bit) return {};
  return {.granule_rows = info.is_matrix() ? block_rows(info.storage_shape()[1]) : kBlock8Bit};
}

AdamSlots element_moments(const ParamInfo& info) {
  return {element_slot("exp_avg", DType::kF32, info),
          element_slot("exp_avg_sq", DType::kF32, info)};
}

AdamSlots row_moments(const ParamInfo& info, std::int64_t width) {
  return {row_slot("exp_avg", DType::kF32, info, width),
          row_slot("exp_avg_sq", DType::kF32, info, width)};
}

std::vector<StateSlot> moment_slots(const AdamSlots& slots, StateFormat format) {
  std::vector<StateSlot> all = state_slots_of(slots.exp_avg, format);
  for (StateSlot& s : state_slots_of(slots.exp_avg_sq, format)) all.push_back(std::move(s));
  return all;
}

std::size_t num_moment_slots(const AdamSlots& slots, StateFormat format) {
  return num_slots_of(slots.exp_avg, format) + num_slots_of(slots.exp_avg_sq, format);
}

AdamState moment_state(const UpdateArgs& args, const AdamSlots& slots, StateFormat format) {
  const std::size_t first = num_slots_of(slots.exp_avg, format);
  return {state_values(args, slots.exp_avg, args.state,
                       {.format = format, .is_signed = true, .which = 1}),
          state_values(args, slots.exp_avg_sq, args.state.subspan(first),
                       {.format = format, .is_signed = false, .which = 2})};
}

}  // namespace thimble
