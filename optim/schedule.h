// Learning-rate schedules: pure functions of the step.
#pragma once

#include <cstdint>

namespace thimble {

enum class ScheduleType : std::uint8_t { kCosine, kLinear, kWsd, kConstant };
enum class DecayType : std::uint8_t { kLinear, kSqrt, kCosine };

struct Schedule {
  ScheduleType type = ScheduleType::kCosine;
  double lr = 0;
  std::int64_t total_steps = 1;
  std::int64_t warmup_steps = 0;
  double min_lr_ratio = 0.1;
  double decay_ratio = 0.2;  // wsd: share of all steps spent decaying
  DecayType decay_type = DecayType::kLinear;

  /// Learning rate of step 1, 2, ..., total_steps. Warm-up is linear: step i of w has lr * i / w,
  /// the step after it the full rate; the last step has lr * min_lr_ratio (cosine, linear, wsd).
  /// Ref (wsd): Hu et al. 2024, "MiniCPM", section 4.
  double at(std::int64_t step) const;
};

}  // namespace thimble
