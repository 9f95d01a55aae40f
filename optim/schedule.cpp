#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace thimble {
namespace {

// Factor from 1 down to `floor` as progress goes from 0 to 1.
double decayed(double progress, double floor, DecayType type) {
  const double p = std::clamp(progress, 0.0, 1.0);
  switch (type) {
    case DecayType::kLinear:
      return 1 - (1 - floor) * p;
    case DecayType::kSqrt:
      return 1 - (1 - floor) * std::sqrt(p);
    case DecayType::kCosine:
      return floor + (1 - floor) * 0.5 * (1 + std::cos(std::numbers::pi * p));
  }
  return 1;
}

}  // namespace

double Schedule::at(std::int64_t step) const {
  if (step <= warmup_steps)
    return lr * static_cast<double>(step) / static_cast<double>(warmup_steps);
  const auto progress = [&](std::int64_t first) {
    const std::int64_t span = total_steps - first;
    return span <= 0 ? 1.0 : static_cast<double>(step - first) / static_cast<double>(span);
  };
  switch (type) {
    case ScheduleType::kConstant:
      return lr;
    case ScheduleType::kCosine:
      return lr * decayed(progress(warmup_steps), min_lr_ratio, DecayType::kCosine);
    case ScheduleType::kLinear:
      return lr * decayed(progress(warmup_steps), min_lr_ratio, DecayType::kLinear);
    case ScheduleType::kWsd: {
      const auto length =
          static_cast<std::int64_t>(std::llround(decay_ratio * static_cast<double>(total_steps)));
      const std::int64_t first = std::max(warmup_steps, total_steps - length);
      return step <= first ? lr : lr * decayed(progress(first), min_lr_ratio, decay_type);
    }
  }
  return lr;
}

}  // namespace thimble
