#include "launcher/trainer/save_interval.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

constexpr double kSecondsPerHour = 3600;
// More than any run has, and far from what an integer holds.
constexpr double kMostSteps = 1e12;

}  // namespace

SaveInterval::SaveInterval(double mtbf_hours) : mtbf_s_(mtbf_hours * kSecondsPerHour) {
  TH_CHECK(mtbf_s_ > 0, "{} hours", mtbf_hours);
}

void SaveInterval::note_step(double seconds) {
  steps_s_ += seconds;
  ++num_steps_;
}

void SaveInterval::note_save(double seconds) {
  saves_s_ += seconds;
  ++num_saves_;
}

double SaveInterval::cost_s() const {
  return saves_s_ / static_cast<double>(num_saves_);
}

double SaveInterval::step_s() const {
  return steps_s_ / static_cast<double>(num_steps_);
}

std::int64_t SaveInterval::steps() const {
  if (!is_measured()) return kFirstSteps;
  const double steps = std::sqrt(2 * cost_s() * mtbf_s_) / step_s();
  // Clocks that measure nothing make no number of it.
  return steps <= kMostSteps ? static_cast<std::int64_t>(std::max(1.0, std::round(steps)))
                             : kFirstSteps;
}

std::string SaveInterval::text() const {
  const double interval_s = static_cast<double>(steps()) * step_s();
  // A failure undoes half an interval on average.
  const double lost = cost_s() / interval_s + interval_s / (2 * mtbf_s_);
  return fmt::format(
      "a save takes {:.3g} s and a step {:.3g} s; with a failure every {:.4g} h, saving every {} "
      "steps ({}) loses the least time, {:.2g} % of it",
      cost_s(), step_s(), mtbf_s_ / kSecondsPerHour, steps(), format_duration(interval_s),
      100 * lost);
}

}  // namespace thimble
